// A tiny assembler of pickle streams and of zip files, for tests. Nothing is checked: wrong ones are as easy as right ones.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace miq {

inline std::string little(std::uint64_t value, std::size_t bytes) {
  std::string text;
  for (std::size_t i = 0; i < bytes; ++i) text += static_cast<char>(i < 8 ? value >> (8 * i) : 0);
  return text;
}

class Pickle {
 public:
  explicit Pickle(int protocol = 2) { op(0x80).raw(little(static_cast<std::uint64_t>(protocol), 1)); }
  static Pickle bare() {
    Pickle pickle;
    pickle.text.clear();
    return pickle;
  }

  Pickle& op(int code) {
    text += static_cast<char>(code);
    return *this;
  }
  Pickle& ops(const std::string& codes) { return raw(codes); }  // the op-codes that are letters
  Pickle& raw(const std::string& bytes) {
    text += bytes;
    return *this;
  }
  Pickle& str(const std::string& value) { return op('X').raw(little(value.size(), 4) + value); }
  Pickle& num(std::int64_t value) { return value >= 0 && value < 256 ? op('K').raw(little(static_cast<std::uint64_t>(value), 1)) : wide(value); }
  Pickle& wide(std::int64_t value) { return op(0x8a).op(8).raw(little(static_cast<std::uint64_t>(value), 8)); }
  Pickle& global(const std::string& module, const std::string& name) { return op('c').raw(module + "\n" + name + "\n"); }
  Pickle& put(int index) { return op('q').op(index); }
  Pickle& get(int index) { return op('h').op(index); }
  Pickle& mark() { return op('('); }
  Pickle& tuple() { return op('t'); }
  Pickle& numbers(const std::vector<std::int64_t>& values) {
    mark();
    for (const std::int64_t value : values) num(value);
    return tuple();
  }
  // ("storage", torch.CLASS, key, "cpu", elements) as a persistent id.
  Pickle& storage(const std::string& type, const std::string& key, std::int64_t elements) {
    return mark().str("storage").global("torch", type).str(key).str("cpu").num(elements).tuple().op('Q');
  }
  // torch._utils._rebuild_tensor_v2 of a storage.
  Pickle& tensor(const std::string& type, const std::string& key, std::int64_t elements, std::int64_t offset, const std::vector<std::int64_t>& shape,
                 const std::vector<std::int64_t>& stride) {
    global("torch._utils", "_rebuild_tensor_v2").mark().storage(type, key, elements).num(offset).numbers(shape).numbers(stride);
    return op(0x89).global("collections", "OrderedDict").op(')').op('R').tuple().op('R');
  }
  std::string stop() const { return text + "."; }

  std::string text;
};

// One entry of a zip file with every field that its headers hold.
struct ZipPart {
  ZipPart(std::string entry, std::string bytes) : name(std::move(entry)), content(std::move(bytes)) {}
  std::string name, content;
  std::string local_name = name;
  std::uint16_t flags = 0, method = 0;
  std::uint16_t local_change = 0;  // exclusive-or, to the flags of the local header
  std::uint16_t local_method_change = 0;
  std::string local_extra, central_extra;
  std::uint32_t crc = static_cast<std::uint32_t>(::crc32_z(0, reinterpret_cast<const unsigned char*>(content.data()), content.size()));
  std::uint32_t local_crc = crc;
  std::uint64_t size = content.size(), stored = content.size();  // in the directory
  std::uint64_t local_size = size, local_stored = stored;
  std::string behind;          // between the content and the next entry
  std::int64_t move = 0;       // added to the offset in the directory
  std::uint16_t disk = 0;
};

struct ZipMaker {
  std::vector<ZipPart> parts;
  std::string before_directory, in_directory, before_end, comment, behind;
  std::int64_t directory_move = 0, directory_grow = 0, count_more = 0;
  bool zip64 = false;

  ZipMaker& add(const std::string& name, const std::string& content) {
    parts.emplace_back(name, content);
    return *this;
  }

  std::string make() const {
    std::string text, directory;
    for (const ZipPart& part : parts) {
      const std::uint64_t at = text.size() + static_cast<std::uint64_t>(part.move);
      text += little(0x04034b50, 4) + little(20, 2) + little(part.flags ^ part.local_change, 2) + little(part.method ^ part.local_method_change, 2) + little(0, 4) +
              little(part.local_crc, 4) +
              little(part.local_stored, 4) + little(part.local_size, 4) + little(part.local_name.size(), 2) + little(part.local_extra.size(), 2) +
              part.local_name + part.local_extra + part.content + part.behind;
      directory += little(0x02014b50, 4) + little(20, 2) + little(20, 2) + little(part.flags, 2) + little(part.method, 2) + little(0, 4) +
                   little(part.crc, 4) + little(part.stored, 4) + little(part.size, 4) + little(part.name.size(), 2) +
                   little(part.central_extra.size(), 2) + little(0, 2) + little(part.disk, 2) + little(0, 2) + little(0, 4) + little(at, 4) + part.name +
                   part.central_extra;
    }
    text += before_directory;
    const std::uint64_t start = text.size() + static_cast<std::uint64_t>(directory_move);
    directory += in_directory;
    text += directory;
    const std::uint64_t size = directory.size() + static_cast<std::uint64_t>(directory_grow), count = parts.size() + static_cast<std::uint64_t>(count_more);
    if (zip64) {
      const std::uint64_t end64 = text.size();
      text += little(0x06064b50, 4) + little(44, 8) + little(45, 2) + little(45, 2) + little(0, 4) + little(0, 4) + little(count, 8) + little(count, 8) +
              little(size, 8) + little(start, 8);
      text += before_end;
      text += little(0x07064b50, 4) + little(0, 4) + little(end64, 8) + little(1, 4);
    }
    const std::uint64_t full = ~std::uint64_t{0};
    text += (zip64 ? "" : before_end) + little(0x06054b50, 4) + little(0, 4) + little(zip64 ? full : count, 2) + little(zip64 ? full : count, 2) +
            little(zip64 ? full : size, 4) + little(zip64 ? full : start, 4) + little(comment.size(), 2) + comment;
    return text + behind;
  }
};

}  // namespace miq
