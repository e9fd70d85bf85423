// Finds the kind of file by its content, runs the inert interpreter over the stream, and then ties every persistent id of
// the tree to the bytes of its storage. Sizes are checked before anything is looked at: a storage has exactly as many
// bytes as its class and its count of elements say, in the zip's record or behind the legacy stream.
#include "miq/formats/torch_file.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "miq/base/checked.h"
#include "miq/base/error.h"
#include "miq/formats/json_events.h"
#include "miq/formats/mapped_file.h"
#include "miq/formats/pickle_objects.h"
#include "miq/formats/torch_parts.h"
#include "miq/formats/wrong_file.h"

namespace miq {
namespace {

constexpr std::string_view kFetchAgain = "The file may be damaged or cut short: fetch it again";
constexpr std::string_view kSaveAgain = "Write the file again with torch.save";
constexpr std::string_view kDistrust = "torch.save does not write this: do not trust the file";
constexpr std::string_view kTorchScript = "Save the model's state_dict() with torch.save, and convert that";
constexpr std::string_view kZipStart = "PK\x03\x04";
// The number 0x1950a86a20f9469cfc6c that begins a legacy stream.
constexpr std::string_view kLegacyMagic = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
constexpr std::int64_t kLegacyProtocol = 1001;
constexpr std::uint64_t kBudgetFiles = 2, kBudgetBytes = 64u << 20;

constexpr std::size_t kLongestKey = 256;

constexpr TorchType kTypes[] = {
    {"FloatStorage", "float32", 4, DType::F32},
    {"DoubleStorage", "float64", 8, DType::F64},
    {"HalfStorage", "float16", 2, DType::F16},
    {"BFloat16Storage", "bfloat16", 2, DType::BF16},
    {"LongStorage", "int64", 8, DType::I64},
    {"IntStorage", "int32", 4, DType::I32},
    {"ShortStorage", "int16", 2, DType::I16},
    {"CharStorage", "int8", 1, DType::I8},
    {"ByteStorage", "uint8", 1, DType::U8},
    {"BoolStorage", "bool", 1, DType::Bool},
    {"UntypedStorage", "", 1, DType::U8},
    {"", "float8_e4m3fn", 1, DType::F8E4M3},
    {"", "float8_e5m2", 1, DType::F8E5M2},
    {"", "uint16", 2, DType::U16},
    {"", "uint32", 4, DType::U32},
    {"", "uint64", 8, DType::U64},
    {"ComplexFloatStorage", "complex64", 8, {}},
    {"ComplexDoubleStorage", "complex128", 16, {}},
    {"QInt8Storage", "qint8", 1, {}},
    {"QUInt8Storage", "quint8", 1, {}},
    {"QInt32Storage", "qint32", 4, {}},
    {"QUInt4x2Storage", "quint4x2", 1, {}},
    {"QUInt2x4Storage", "quint2x4", 1, {}},
    {"", "complex32", 4, {}},
    {"", "float8_e4m3fnuz", 1, {}},
    {"", "float8_e5m2fnuz", 1, {}},
    {"", "float8_e8m0fnu", 1, {}},
    {"", "float4_e2m1fn_x2", 1, {}},
};

// Empty where there is no text, or one that is too long to copy again and again.
std::string text_of(const PickleTree& tree, NodeId node) {
  const NodeKind kind = tree.kind(node);
  if ((kind == NodeKind::String || kind == NodeKind::Binary) && tree.text(node).size() <= kLongestKey) return std::string(tree.text(node));
  // Keys of the first legacy files are numbers.
  return kind == NodeKind::Int ? std::to_string(tree.integer(node)) : std::string();
}

}  // namespace

const TorchType* torch_storage_type(std::string_view class_name) {
  const auto found = std::find_if(std::begin(kTypes), std::end(kTypes), [&](const TorchType& type) { return type.storage == class_name; });
  return found != std::end(kTypes) && !class_name.empty() ? &*found : nullptr;
}

const TorchType* torch_dtype(std::string_view name) {
  const auto found = std::find_if(std::begin(kTypes), std::end(kTypes), [&](const TorchType& type) { return type.dtype == name; });
  return found != std::end(kTypes) && !name.empty() ? &*found : nullptr;
}

void TorchFile::Parts::fail(NodeId node, std::string_view problem, std::string_view remedy) const {
  throw FormatError(name, tree.offset(node), problem, remedy);
}

const TorchStorageView* TorchFile::Parts::view(NodeId node) const {
  const auto at = std::lower_bound(views.begin(), views.end(), node, [](const auto& entry, NodeId wanted) { return entry.first < wanted; });
  return at != views.end() && at->first == node ? &at->second : nullptr;
}

class TorchFileReader {
 public:
  TorchFileReader(Blob file, const std::string& name) : parts_(std::make_shared<TorchFile::Parts>()) {
    parts_->file = std::move(file);
    parts_->name = name;
  }
  TorchFile read();

 private:
  [[noreturn]] void fail(std::uint64_t at, std::string_view problem, std::string_view remedy) const {
    throw FormatError(parts_->name, at, problem, remedy);
  }
  void read_zip();
  void refuse_archive() const;
  void read_legacy();
  void read_legacy_storages(std::uint64_t at, const PickleTree& keys);
  void find_storages();
  void add_storage(NodeId id);
  TorchStorageView view_of(NodeId id, std::uint32_t storage, NodeId metadata) const;

  std::shared_ptr<TorchFile::Parts> parts_;
  std::string folder_;  // zip: "NAME/"
};

void TorchFileReader::refuse_archive() const {
  for (const ZipEntry& entry : parts_->zip->entries()) {
    if (entry.name.ends_with("/constants.pkl") || entry.name.ends_with("/model.json")) {
      fail(entry.header, "is a TorchScript archive: code, not only weights", kTorchScript);
    }
    if (!entry.name.starts_with(folder_)) {
      fail(entry.header, "entry '" + printable(entry.name) + "' is not in the folder '" + printable(folder_) + "' like the first one",
           kDistrust);
    }
  }
}

void TorchFileReader::read_zip() {
  parts_->container = TorchContainer::Zip;
  parts_->zip = ZipFile::read(parts_->file, parts_->name);
  const ZipFile& zip = *parts_->zip;
  const std::string_view first = zip.entries().empty() ? std::string_view() : zip.entries().front().name;
  folder_ = first.substr(0, first.find('/') == std::string_view::npos ? 0 : first.find('/') + 1);
  refuse_archive();
  const ZipEntry* stream = zip.find(folder_ + "data.pkl");
  if (folder_.empty() || !stream)
    fail(0, "is a zip archive without a data.pkl: no file of torch.save", "Unpack it, and give the checkpoint within");
  if (const ZipEntry* order = zip.find(folder_ + "byteorder")) {
    zip.verify(*order);
    const Blob text = zip.content(*order);
    parts_->big_endian = text.text() == "big";
    if (!parts_->big_endian && text.text() != "little")
      fail(order->begin, "states the byte order '" + printable(text.text()) + "'", kFetchAgain);
  }
  zip.verify(*stream);
  parts_->tree = read_pickle(zip.content(*stream), parts_->name, stream->begin);
  find_storages();
}

// Five pickles (magic, protocol, system, object, keys), then the storages. Their elements are little-endian whatever the
// system was: torch's writeFileRaw swaps them.
void TorchFileReader::read_legacy() {
  parts_->container = TorchContainer::Legacy;
  std::uint64_t at = 0;
  const auto next = [&] {
    auto [tree, taken] = read_pickle_prefix(parts_->file.slice(at, parts_->file.size() - at), parts_->name, at);
    at += taken;
    return std::move(tree);
  };
  next();  // the magic number: read() has looked at it
  const PickleTree protocol = next();
  if (as_int(protocol, protocol.root()) != kLegacyProtocol)
    fail(protocol.offset(protocol.root()), "is a legacy file of an unknown protocol", kSaveAgain);
  const PickleTree system = next();
  if (!is_dict(system, system.root()))
    fail(system.offset(system.root()), "is a legacy file without a description of its system", kFetchAgain);
  parts_->tree = next();
  find_storages();
  const PickleTree keys = next();
  read_legacy_storages(at, keys);
}

void TorchFileReader::read_legacy_storages(std::uint64_t at, const PickleTree& keys) {
  const Bytes bytes = parts_->file.bytes();
  std::vector<bool> seen(parts_->storages.size());
  for (const NodeId node : elements(keys, keys.root())) {
    const std::string key = text_of(keys, node);
    const auto found = parts_->by_key.find(key);
    if (found == parts_->by_key.end() || seen[found->second]) {
      fail(keys.offset(node),
           "lists the storage '" + printable(key) + "', which " + (found == parts_->by_key.end() ? "nothing uses" : "it lists already"),
           kDistrust);
    }
    seen[found->second] = true;
    TorchStorage& storage = parts_->storages[found->second];
    std::uint64_t elements = 0;
    if (bytes.size() - at < sizeof elements) fail(at, "is cut short before the storage '" + printable(key) + "'", kFetchAgain);
    std::memcpy(&elements, bytes.data() + at, sizeof elements);
    if (elements != storage.elements) {
      fail(at,
           "storage '" + printable(key) + "' has " + std::to_string(elements) + " elements where " + std::to_string(storage.elements) +
               " are described",
           kDistrust);
    }
    at += sizeof elements;
    const std::uint64_t length = elements * storage.type->bytes;  // checked when the storage was found
    if (length > bytes.size() - at) {
      fail(at,
           "is cut short: the storage '" + printable(key) + "' takes " + std::to_string(length) + " bytes, " +
               std::to_string(bytes.size() - at) + " are left",
           kFetchAgain);
    }
    storage.data = parts_->file.slice(at, length);
    at += length;
  }
  const auto missing = std::find(seen.begin(), seen.end(), false);
  if (missing != seen.end()) {
    fail(at, "does not list the storage '" + printable(parts_->storages[static_cast<std::size_t>(missing - seen.begin())].key) + "'",
         kDistrust);
  }
  if (at != bytes.size()) fail(at, "has " + std::to_string(bytes.size() - at) + " bytes behind its last storage", kDistrust);
}

void TorchFileReader::find_storages() {
  for (NodeId node = 0; node < parts_->tree.size(); ++node) {
    if (parts_->tree.kind(node) == NodeKind::Persistent) add_storage(node);
  }
}

TorchStorageView TorchFileReader::view_of(NodeId id, std::uint32_t index, NodeId metadata) const {
  const PickleTree& tree = parts_->tree;
  const TorchStorage& storage = parts_->storages[index];
  TorchStorageView view{index, 0, storage.elements * storage.type->bytes};
  if (is_none(tree, metadata)) return view;
  const auto parts = tree.items(metadata);
  const auto offset = parts.size() == 3 ? as_int(tree, parts[1]) : std::nullopt,
             size = parts.size() == 3 ? as_int(tree, parts[2]) : std::nullopt;
  const auto elements = static_cast<std::int64_t>(storage.elements);
  if (!offset || !size || *offset < 0 || *size < 0 || *offset > elements || *size > elements - *offset) {
    parts_->fail(id, "a view of the storage '" + printable(storage.key) + "' leaves it", kDistrust);
  }
  view.begin = static_cast<std::uint64_t>(*offset) * storage.type->bytes;
  view.bytes = static_cast<std::uint64_t>(*size) * storage.type->bytes;
  return view;
}

// ("storage", class, key, location, elements), and in legacy files the description of a view.
void TorchFileReader::add_storage(NodeId node) {
  const PickleTree& tree = parts_->tree;
  const auto id = tree.items(tree.persistent_id(node));
  const bool legacy = parts_->container == TorchContainer::Legacy;
  const std::string what = id.empty() ? "" : text_of(tree, id[0]);
  if (legacy && what == "module") return;  // the source text of a class: nothing looks at it
  if (what != "storage" || id.size() != (legacy ? 6u : 5u))
    parts_->fail(node, "refers to something outside the stream that is no storage", kDistrust);
  const PickleGlobal* named = tree.global(id[1]);
  const TorchType* type = named ? torch_storage_type(named->name) : nullptr;
  if (!type)
    parts_->fail(node, "refers to a storage of the unknown class " + (named ? printable(named->full_name()) : "(no class)"), kSaveAgain);
  const std::string key = text_of(tree, id[2]);
  const auto elements = as_int(tree, id[4]);
  const auto bytes =
      elements && *elements >= 0 ? checked_mul(static_cast<std::uint64_t>(*elements), std::uint64_t{type->bytes}) : std::nullopt;
  if (key.empty() || !bytes || *bytes > static_cast<std::uint64_t>(INT64_MAX))
    parts_->fail(node, "refers to a storage without a key or with an impossible size", kDistrust);

  const auto [found, fresh] = parts_->by_key.try_emplace(key, static_cast<std::uint32_t>(parts_->storages.size()));
  if (fresh) {
    TorchStorage storage{key, type, static_cast<std::uint64_t>(*elements), {}, nullptr};
    if (!legacy) {
      const ZipEntry* record = parts_->zip->find(folder_ + "data/" + key);
      if (!record) parts_->fail(node, "refers to the storage '" + printable(key) + "', for which the file has no record", kFetchAgain);
      if (record->size != *bytes) {
        fail(record->begin,
             "storage '" + printable(key) + "' has " + std::to_string(record->size) + " bytes where " + std::to_string(*bytes) +
                 " are described",
             kDistrust);
      }
      storage.data = parts_->zip->content(*record);
      storage.record = record;
    }
    parts_->storages.push_back(std::move(storage));
  }
  const TorchStorage& storage = parts_->storages[found->second];
  if (storage.type != type || storage.elements != static_cast<std::uint64_t>(*elements)) {
    parts_->fail(node, "refers to the storage '" + printable(key) + "' with two types or sizes", kDistrust);
  }
  parts_->views.emplace_back(node, view_of(node, found->second, legacy ? id[5] : kNoNode));
}

TorchFile TorchFileReader::read() {
  const std::string_view text = parts_->file.text();
  if (text.starts_with("PYTORCH1")) fail(0, "is a PyTorch file of the first zip-less form (PYTORCH1)", kSaveAgain);
  if (text.size() > 262 && text.substr(257, 5) == "ustar") {
    fail(0, "is a tar archive (torch before 0.2 wrote such files)",
         "Load it with a torch of that time, and write it again with torch.save");
  }
  if (text.starts_with(kZipStart)) {
    read_zip();
  } else if (looks_like_torch_file(parts_->file.bytes())) {
    auto [tree, taken] = read_pickle_prefix(parts_->file, parts_->name);
    if (tree.kind(tree.root()) == NodeKind::BigInt && tree.text(tree.root()) == kLegacyMagic) {
      read_legacy();
    } else {
      if (taken != text.size())
        fail(taken, "has " + std::to_string(text.size() - taken) + " bytes behind the end of its pickle", kDistrust);
      parts_->tree = std::move(tree);
    }
  } else {
    refuse_wrong_file(parts_->file.bytes(), parts_->name, "PyTorch");
    fail(0, "is neither a zip file nor a pickle of protocol 2 to 5: no PyTorch file", kSaveAgain);
  }
  const std::uint64_t budget = kBudgetFiles * text.size() + kBudgetBytes;
  parts_->budget = std::make_shared<std::atomic<std::uint64_t>>(budget);
  parts_->verified = std::make_unique<std::atomic<bool>[]>(parts_->storages.size());
  TorchFile result;
  result.parts_ = std::move(parts_);
  return result;
}

const std::string& TorchFile::name() const { return parts_->name; }
TorchContainer TorchFile::container() const { return parts_->container; }
bool TorchFile::big_endian() const { return parts_->big_endian; }
const PickleTree& TorchFile::tree() const { return parts_->tree; }
std::uint64_t TorchFile::file_bytes() const { return parts_->file.size(); }
std::uint64_t TorchFile::storage_count() const { return parts_->storages.size(); }

std::uint64_t TorchFile::storage_bytes() const {
  std::uint64_t sum = 0;
  for (const TorchStorage& storage : parts_->storages) sum += storage.data.size();
  return sum;
}

void TorchFile::verify() const {
  if (!parts_->zip) return;
  for (const ZipEntry& entry : parts_->zip->entries()) parts_->zip->verify(entry);
  for (std::size_t i = 0; i < parts_->storages.size(); ++i) parts_->verified[i] = true;
}

TorchFile read_torch_file(Blob file, const std::string& name) { return TorchFileReader(std::move(file), name).read(); }
TorchFile open_torch_file(const std::string& path) { return read_torch_file(map_file(path), path); }

bool looks_like_torch_file(Bytes start) {
  const std::string_view text(reinterpret_cast<const char*>(start.data()), start.size());
  return text.starts_with(kZipStart) || (start.size() > 2 && start[0] == 0x80 && start[1] >= 2 && start[1] <= 5);
}

}  // namespace miq
