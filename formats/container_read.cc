// Reads a container from the outside in: the header against its own digest, the checksum table against
// the digest in the header, the small sections and (where wanted) every tensor against the table, and
// only then what they say against each other. Damage is thus found before anything is believed, and
// named by the tensor whose bytes it hit.
#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "miq/base/error.h"
#include "miq/formats/container.h"
#include "miq/formats/container_layout.h"
#include "miq/formats/digest.h"
#include "miq/formats/json_events.h"
#include "miq/formats/mapped_file.h"

namespace miq {
namespace {

using namespace container;

constexpr std::string_view kCopyAgain = "The file is damaged: copy it again, or make it again from its source";
constexpr std::string_view kNewer = "Use a newer version of miq";

// "tensor NAME" or "section 'codes' of tensor NAME" or the reserved name itself.
std::string described(std::string_view stored_name) {
  if (stored_name.substr(0, kReserved.size()) == kReserved) return std::string(stored_name);
  const std::size_t hash = stored_name.find('#');
  if (hash == stored_name.npos) return "tensor " + printable(stored_name, 1024);
  return "tensor " + printable(stored_name.substr(0, hash), 1024) + ", section '" + printable(stored_name.substr(hash + 1)) + "'";
}

class Reader {
 public:
  Reader(Blob file, const std::string& name) : name_(name) {
    check_header(file);
    source_ = read_safetensors(std::move(file), name);
    check_kind();
    check_table_of_checksums();
  }

  std::vector<DamagedChunk> damage() const {
    std::vector<DamagedChunk> found;
    const Blob sums = payload(kChecksums);
    const std::uint8_t* sum = sums.bytes().data();
    for (const Extent& extent : order_) {
      for (std::uint64_t begin = extent.begin; begin < extent.end; begin += kChunk, sum += 8) {
        const std::uint64_t length = std::min(kChunk, extent.end - begin);
        if (!is_whole(begin, length, sum)) found.push_back({described(*extent.stored), source_.data_begin + begin, length});
      }
    }
    return found;
  }

  Container read(bool verify_tensors, ThreadPool* pool) {
    check_chunks(pool, [&](std::string_view stored) { return verify_tensors || stored.substr(0, kReserved.size()) == kReserved; });
    const std::string table_text(payload(kTable).text());
    const Json table = parse_json(table_text, name_ + ": " + std::string(kTable));
    Container content;
    if (!table.is_object() || table.size() != 3 || !table.contains("files") || !table.contains("manifest") || !table.contains("tensors")) {
      refuse("miq/tensors.json must have exactly 'files', 'manifest' and 'tensors'");
    }
    claimed_ = {std::string(kTable), std::string(kChecksums)};
    content.manifest = std::string(section(kManifest, table.at("manifest"), kManifest).text());
    if (digest_of({reinterpret_cast<const std::uint8_t*>(content.manifest.data()), content.manifest.size()}) !=
        metadata("manifest_digest")) {
      refuse("miq/manifest.json does not match its digest in the header", kCopyAgain);
    }
    read_files(content, table.at("files"));
    read_tensors(content, table.at("tensors"));
    for (const auto& [stored, entry] : source_.entries) {
      if (!std::binary_search(claimed_.begin(), claimed_.end(), stored)) refuse(described(stored) + " is not in miq/tensors.json");
    }
    if (verify_tensors) check_values(content);
    return content;
  }

 private:
  struct Extent {
    std::uint64_t begin, end;
    const std::string* stored;
  };

  [[noreturn]] void refuse(const std::string& problem, std::string_view remedy = {}) const { throw FormatError(name_, problem, remedy); }

  void check_header(const Blob& file) const {
    std::uint64_t length = 0;
    if (file.size() < 8) return;  // read_safetensors says what is wrong with it
    for (int k = 0; k < 8; ++k) length |= static_cast<std::uint64_t>(file.bytes()[static_cast<std::size_t>(k)]) << (8 * k);
    if (length > file.size() - 8 || length > kSafetensorsHeaderLimit) return;
    const std::string_view header = file.text().substr(0, 8 + length);
    const std::size_t at = header_digest_at(header);
    if (at == header.npos) return;
    if (header.substr(at, kDigestDigits) != header_digest(header))
      throw FormatError(name_, 0, "the header does not match its digest", kCopyAgain);
  }

  void check_kind() const {
    const auto format = source_.metadata.find("format");
    if (format == source_.metadata.end() || format->second != "miq") {
      refuse("a safetensors file, but no miq container", "Convert the model with convert-checkpoint");
    }
    const std::string& version = metadata("version");
    const bool is_number =
        !version.empty() && version.size() < 10 && version[0] != '0' && version.find_first_not_of("0123456789") == version.npos;
    if (!is_number) refuse("the container's version is '" + printable(version) + "', no number", kCopyAgain);
    if (std::stoull(version) > kVersion) {
      refuse("container version " + version + "; this program reads versions up to " + std::to_string(kVersion), kNewer);
    }
    metadata("header_digest");
  }

  const std::string& metadata(const char* key) const {
    const auto found = source_.metadata.find(key);
    if (found == source_.metadata.end()) refuse("the header's metadata has no '" + std::string(key) + "'", kCopyAgain);
    return found->second;
  }

  const SafetensorsEntry& entry(std::string_view stored) const {
    const auto found = source_.entries.find(std::string(stored));
    if (found == source_.entries.end()) refuse(described(stored) + " is missing");
    return found->second;
  }

  Blob payload(std::string_view stored) const {
    const SafetensorsEntry& found = entry(stored);
    if (found.dtype != DType::U8 || found.shape.size() != 1) refuse(described(stored) + " must be a vector of U8");
    return source_.data(found);
  }

  // A U8 payload without its filling.
  Blob section(std::string_view stored, const Json& size, std::string_view of) {
    if (!size.is_number_unsigned()) refuse("miq/tensors.json: the size of " + described(of) + " is no count");
    const auto bytes = size.get<std::uint64_t>();
    const Blob whole = payload(stored);
    if (bytes > whole.size() || padded(bytes) != whole.size()) {
      refuse(described(stored) + " has " + std::to_string(whole.size()) + " bytes where miq/tensors.json says " + std::to_string(bytes));
    }
    const Bytes fill = whole.bytes().subspan(bytes);
    if (std::any_of(fill.begin(), fill.end(), [&](std::uint8_t byte) { return byte != filling(stored); })) {
      refuse(described(stored) + " is not filled up as it must be");
    }
    claim(stored);
    return whole.slice(0, bytes);
  }

  // Kept sorted at the end only: names come in the table's order, which is sorted by tensor.
  void claim(std::string_view stored) { claimed_.emplace_back(stored); }

  void check_table_of_checksums() {
    const Blob sums = payload(kChecksums);
    if (digest_of(sums.bytes()) != metadata("checksums_digest")) {
      throw FormatError(name_, offset_of(kChecksums), "miq/checksums does not match its digest in the header", kCopyAgain);
    }
    for (const auto& [stored, found] : source_.entries) {
      if (stored != kChecksums) order_.push_back({found.begin, found.end, &stored});
    }
    std::sort(order_.begin(), order_.end(),
              [](const Extent& a, const Extent& b) { return std::tie(a.begin, a.end, *a.stored) < std::tie(b.begin, b.end, *b.stored); });
    std::uint64_t chunks = 0;
    for (const Extent& extent : order_) chunks += chunks_of(extent.end - extent.begin);
    if (sums.size() != padded(chunks * 8)) {
      refuse("miq/checksums has " + std::to_string(sums.size()) + " bytes; " + std::to_string(chunks) + " chunks need " +
             std::to_string(padded(chunks * 8)));
    }
    const Bytes fill = sums.bytes().subspan(chunks * 8);
    if (std::any_of(fill.begin(), fill.end(), [](std::uint8_t byte) { return byte != 0; }))
      refuse("miq/checksums is not filled up with zeros");
  }

  std::uint64_t offset_of(std::string_view stored) const { return source_.data_begin + entry(stored).begin; }

  // The first wrong chunk in the file's order is named, however many threads look.
  template <typename Wanted>
  void check_chunks(ThreadPool* pool, const Wanted& wanted) const {
    struct Unit {
      const Extent* extent;
      std::uint64_t begin, end;  // within the payloads; whole chunks
      const std::uint8_t* sum;
    };
    constexpr std::uint64_t kUnit = 64 * kChunk;
    const Blob sums = payload(kChecksums);
    const std::uint8_t* sum = sums.bytes().data();
    std::vector<Unit> units;
    for (const Extent& extent : order_) {
      const bool is_wanted = wanted(*extent.stored);
      for (std::uint64_t begin = extent.begin; is_wanted && begin < extent.end; begin += kUnit) {
        units.push_back({&extent, begin, std::min(extent.end, begin + kUnit), sum + (begin - extent.begin) / kChunk * 8});
      }
      sum += chunks_of(extent.end - extent.begin) * 8;
    }
    const auto check = [&](std::int64_t i) {
      const Unit& unit = units[static_cast<std::size_t>(i)];
      const std::uint8_t* at = unit.sum;
      for (std::uint64_t begin = unit.begin; begin < unit.end; begin += kChunk, at += 8) check_chunk(*unit.extent, begin, std::min(kChunk, unit.end - begin), at);
    };
    if (pool) return pool->for_each(static_cast<std::int64_t>(units.size()), check);
    for (std::size_t i = 0; i < units.size(); ++i) check(static_cast<std::int64_t>(i));
  }

  void read_files(Container& content, const Json& files) {
    if (!files.is_object()) refuse("miq/tensors.json: 'files' is no object");
    for (const auto& [file, size] : files.items()) {
      const std::string fault = fault_of_file_name(file);
      if (!fault.empty()) refuse("the name of the file '" + printable(file) + "' " + fault);
      const std::string stored = std::string(kFilePrefix) + file;
      content.files.emplace(file, section(stored, size, stored));
    }
  }

  void read_tensors(Container& content, const Json& tensors) {
    if (!tensors.is_object()) refuse("miq/tensors.json: 'tensors' is no object");
    for (const auto& [tensor, description] : tensors.items()) {
      const std::string fault = fault_of_tensor_name(tensor);
      if (!fault.empty()) refuse("the name of the tensor '" + printable(tensor) + "' " + fault);
      content.tensors.emplace(tensor, read_tensor(tensor, description));
    }
    std::sort(claimed_.begin(), claimed_.end());
  }

  Tensor read_tensor(const std::string& tensor_name, const Json& description) {
    const auto fault = [&](const std::string& problem, std::string_view remedy = {}) {
      refuse(described(tensor_name) + ": " + problem, remedy);
    };
    const auto text = [&](const char* key) -> std::string {
      const auto found = description.find(key);
      if (found == description.end() || !found->is_string()) fault("miq/tensors.json states no " + std::string(key));
      return found->get<std::string>();
    };
    if (!description.is_object()) fault("it is not described by an object");
    Tensor tensor;
    const auto encoding = encoding_from_name(text("encoding"));
    if (!encoding) fault("its encoding '" + printable(text("encoding")) + "' is unknown", kNewer);
    tensor.encoding = *encoding;
    const auto dtype = dtype_from_name(text("dtype"));
    if (!dtype) fault("its element type '" + printable(text("dtype")) + "' is unknown", kNewer);
    tensor.dtype = *dtype;
    const auto shape = description.find("shape");
    if (shape == description.end() || !shape->is_array()) fault("miq/tensors.json states no shape");
    for (const Json& dimension : *shape) {
      if (!dimension.is_number_unsigned() || dimension.get<std::uint64_t>() > INT64_MAX)
        fault("its shape holds something other than counts");
      tensor.shape.push_back(dimension.get<std::int64_t>());
    }
    const auto sections = description.find("sections");
    const bool is_dense = tensor.encoding == Encoding::Dense;
    if ((sections == description.end()) != is_dense || description.size() != (is_dense ? 3u : 4u))
      fault("miq/tensors.json has unknown or missing fields for it");
    if (is_dense) {
      const SafetensorsEntry& found = entry(tensor_name);
      if (found.dtype != tensor.dtype || found.shape != tensor.shape) fault("header and miq/tensors.json state different types or shapes");
      claim(tensor_name);
      tensor.sections.emplace("data", source_.data(found));
      return tensor;
    }
    if (!sections->is_object()) fault("its sections are no object");
    for (const auto& [which, size] : sections->items()) {
      const std::string stored = section_name(tensor_name, which);
      tensor.sections.emplace(which, section(stored, size, stored));
    }
    return tensor;
  }

  // Reports what the sections of an undamaged file say wrongly, in the file's name.
  void check_values(const Container& content) const {
    for (const auto& [tensor_name, tensor] : content.tensors) {
      try {
        check_tensor(tensor, printable(tensor_name, 1024));
      } catch (const FormatError& error) {
        throw FormatError(name_, error.what());
      }
    }
  }

  bool is_whole(std::uint64_t begin, std::uint64_t length, const std::uint8_t* sum) const {
    std::uint64_t expected;
    std::memcpy(&expected, sum, 8);
    return xxh3_64(source_.file.bytes().subspan(source_.data_begin + begin, length)) == expected;
  }

  void check_chunk(const Extent& extent, std::uint64_t begin, std::uint64_t length, const std::uint8_t* sum) const {
    if (is_whole(begin, length, sum)) return;
    throw FormatError(name_, source_.data_begin + begin, described(*extent.stored) + ": the " + std::to_string(length) + " bytes from here do not match their checksum", kCopyAgain);
  }

  std::string name_;
  SafetensorsFile source_;
  std::vector<Extent> order_;         // every payload but the checksums, as they lie in the file
  std::vector<std::string> claimed_;  // stored names that the table accounts for
};

}  // namespace

std::vector<DamagedChunk> damaged_chunks(Blob file, const std::string& name) { return Reader(std::move(file), name).damage(); }

Container read_container(Blob file, const std::string& name, bool verify_tensors, ThreadPool* pool) {
  return Reader(std::move(file), name).read(verify_tensors, pool);
}

Container read_container(const std::string& path, bool verify_tensors, ThreadPool* pool) {
  return read_container(map_file(path), path, verify_tensors, pool);
}

void verify_container(const std::string& path, ThreadPool* pool) { read_container(path, true, pool); }

bool looks_like_container(Bytes start_of_file) {
  const std::string_view text(reinterpret_cast<const char*>(start_of_file.data()), start_of_file.size());
  static constexpr std::string_view kStart = "{\"__metadata__\":{";
  if (text.size() < 8 || text.substr(8, kStart.size()) != kStart) return false;
  const std::string_view metadata = text.substr(8 + kStart.size(), 1024);
  return metadata.substr(0, metadata.find('}')).find("\"format\":\"miq\"") != metadata.npos;
}

}  // namespace miq
