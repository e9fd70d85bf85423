// The pickle names the storages "0", "1", … and the archive holds each as data/N. Local headers carry a
// filler field so that the bytes of every record begin at a multiple of 64, as torch's own writer does.
#include "miq/formats/torch_writer.h"

#include <zlib.h>

#include <algorithm>
#include <set>

#include "miq/base/error.h"
#include "miq/formats/atomic_file.h"

namespace miq {
namespace {

constexpr std::uint64_t kFull32 = 0xffffffff;
constexpr std::uint64_t kAlignment = 64;

std::string little(std::uint64_t value, std::size_t bytes) {
  std::string text;
  for (std::size_t i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i));
  return text;
}

Bytes bytes_of(const std::string& text) { return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}; }

std::string_view storage_class(DType dtype) {
  switch (dtype) {
    case DType::Bool:
      return "BoolStorage";
    case DType::U8:
      return "ByteStorage";
    case DType::I8:
      return "CharStorage";
    case DType::I16:
      return "ShortStorage";
    case DType::I32:
      return "IntStorage";
    case DType::I64:
      return "LongStorage";
    case DType::F16:
      return "HalfStorage";
    case DType::BF16:
      return "BFloat16Storage";
    case DType::F32:
      return "FloatStorage";
    case DType::F64:
      return "DoubleStorage";
    default:
      return {};
  }
}

// Op-codes of protocol 2 (pickletools.py).
class PickleText {
 public:
  PickleText() : text_("\x80\x02") {}
  void op(char code) { text_ += code; }
  void global(std::string_view module, std::string_view name) { text_ += "c" + std::string(module) + "\n" + std::string(name) + "\n"; }
  void string(std::string_view value) { text_ += "X" + little(value.size(), 4) + std::string(value); }
  void number(std::int64_t value) {
    if (value >= 0 && value <= 0x7fffffff) {
      text_ += "J" + little(static_cast<std::uint64_t>(value), 4);
    } else {
      text_ += "\x8a\x08" + little(static_cast<std::uint64_t>(value), 8);
    }
  }
  void numbers(const std::vector<std::int64_t>& values) {
    op('(');
    for (const std::int64_t value : values) number(value);
    op('t');
  }
  void empty_ordered_dict() {
    global("collections", "OrderedDict");
    text_ += ")R";
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

std::int64_t elements_of(const SafetensorsItem& item) {
  std::int64_t elements = 1;
  for (const std::int64_t size : item.layout.shape) elements *= size;
  return elements;
}

std::string state_dict_pickle(const std::vector<SafetensorsItem>& items, const std::string& path) {
  PickleText pickle;
  pickle.empty_ordered_dict();
  pickle.op('(');
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const SafetensorsLayout& layout = items[i].layout;
    if (!names.insert(layout.name).second) throw Error(path + ": two tensors are named '" + layout.name + "'");
    const std::string_view storage = storage_class(layout.dtype);
    if (storage.empty()) {
      throw Error(path + ": tensor '" + layout.name + "' has element type " + std::string(dtype_name(layout.dtype)) +
                  ", which torch files do not hold; cast it first");
    }
    if (!tensor_bytes(layout.dtype, layout.shape)) throw Error(path + ": tensor '" + layout.name + "' is too large");
    std::vector<std::int64_t> strides(layout.shape.size());
    std::int64_t stride = 1;
    for (std::size_t d = strides.size(); d-- > 0;) {
      strides[d] = stride;
      stride *= std::max<std::int64_t>(layout.shape[d], 1);
    }
    pickle.string(layout.name);
    pickle.global("torch._utils", "_rebuild_tensor_v2");
    pickle.op('(');
    pickle.op('(');
    pickle.string("storage");
    pickle.global("torch", storage);
    pickle.string(std::to_string(i));
    pickle.string("cpu");
    pickle.number(elements_of(items[i]));
    pickle.op('t');
    pickle.op('Q');
    pickle.number(0);
    pickle.numbers(layout.shape);
    pickle.numbers(strides);
    pickle.op('\x89');  // requires_grad: False
    pickle.empty_ordered_dict();
    pickle.op('t');
    pickle.op('R');
  }
  pickle.op('u');
  pickle.op('.');
  return pickle.text();
}

class ZipWriter {
 public:
  ZipWriter(AtomicFile& file, std::string folder) : file_(file), folder_(std::move(folder)) {}

  void add(const std::string& record, Bytes content) {
    Entry entry{folder_ + "/" + record, file_.position(), content.size(),
                static_cast<std::uint32_t>(::crc32_z(0, content.data(), content.size()))};
    const std::string zip64 = entry.size >= kFull32 ? little(1, 2) + little(16, 2) + little(entry.size, 8) + little(entry.size, 8) : "";
    const std::uint64_t start = entry.offset + 30 + entry.name.size() + zip64.size() + 4;
    const std::uint64_t filler = (kAlignment - start % kAlignment) % kAlignment;
    const std::string extra = zip64 + "FB" + little(filler, 2) + std::string(filler, 'Z');
    write(little(0x04034b50, 4) + common(entry) + little(extra.size(), 2) + entry.name + extra);
    file_.write(content);
    entries_.push_back(std::move(entry));
  }

  void finish() {
    const std::uint64_t start = file_.position();
    for (const Entry& entry : entries_) {
      std::string zip64;
      if (entry.size >= kFull32) zip64 += little(entry.size, 8) + little(entry.size, 8);
      if (entry.offset >= kFull32) zip64 += little(entry.offset, 8);
      if (!zip64.empty()) zip64 = little(1, 2) + little(zip64.size(), 2) + zip64;
      write(little(0x02014b50, 4) + little(zip64.empty() ? 20 : 45, 2) + common(entry) + little(zip64.size(), 2) + little(0, 2) +
            little(0, 2) + little(0, 2) + little(0, 4) + little(std::min(entry.offset, kFull32), 4) + entry.name + zip64);
    }
    const std::uint64_t size = file_.position() - start, count = entries_.size();
    if (start >= kFull32 || size >= kFull32 || count >= 0xffff) {
      const std::uint64_t end = file_.position();
      write(little(0x06064b50, 4) + little(44, 8) + little(45, 2) + little(45, 2) + little(0, 4) + little(0, 4) + little(count, 8) +
            little(count, 8) + little(size, 8) + little(start, 8));
      write(little(0x07064b50, 4) + little(0, 4) + little(end, 8) + little(1, 4));
    }
    const std::uint64_t entries = std::min<std::uint64_t>(count, 0xffff);
    write(little(0x06054b50, 4) + little(0, 4) + little(entries, 2) + little(entries, 2) + little(std::min(size, kFull32), 4) +
          little(std::min(start, kFull32), 4) + little(0, 2));
  }

 private:
  struct Entry {
    std::string name;
    std::uint64_t offset, size;
    std::uint32_t crc;
  };

  // Version needed, flags (UTF-8 names), method, time, date (1980-01-01), checksum, sizes, length of the name.
  static std::string common(const Entry& entry) {
    const std::uint64_t size = std::min(entry.size, kFull32);
    return little(entry.size >= kFull32 || entry.offset >= kFull32 ? 45 : 20, 2) + little(0x800, 2) + little(0, 2) + little(0, 2) +
           little(0x21, 2) + little(entry.crc, 4) + little(size, 4) + little(size, 4) + little(entry.name.size(), 2);
  }
  void write(const std::string& text) { file_.write(bytes_of(text)); }

  AtomicFile& file_;
  std::string folder_;
  std::vector<Entry> entries_;
};

}  // namespace

void write_torch_state_dict(const std::string& path, const std::vector<SafetensorsItem>& items) {
  const std::string pickle = state_dict_pickle(items, path);
  std::uint64_t size = pickle.size();
  for (const SafetensorsItem& item : items) size += tensor_bytes(item.layout.dtype, item.layout.shape).value_or(0) + 256;
  AtomicFile file(path, size);
  ZipWriter zip(file, "archive");
  zip.add("data.pkl", bytes_of(pickle));
  zip.add("byteorder", bytes_of("little"));
  for (std::size_t i = 0; i < items.size(); ++i) {
    const Blob data = items[i].data();
    if (data.size() != tensor_bytes(items[i].layout.dtype, items[i].layout.shape)) {
      throw Error(path + ": tensor '" + items[i].layout.name + "' has " + std::to_string(data.size()) +
                  " bytes, which is not what its type and shape need");
    }
    zip.add("data/" + std::to_string(i), data.bytes());
  }
  zip.add("version", bytes_of("3\n"));
  zip.finish();
  file.commit();
}

}  // namespace miq
