// The header is read as a stream of JSON events straight into entries (no tree), so memory stays within a
// few times the header's size whatever it says. Then the ranges, sorted, must tile the data part exactly:
// no gap, no overlap, no byte left over. O(n log n) in the number of tensors.
#include "miq/formats/safetensors.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "miq/base/checked.h"
#include "miq/base/error.h"
#include "miq/formats/json_events.h"
#include "miq/formats/mapped_file.h"
#include "miq/formats/wrong_file.h"

namespace miq {
namespace {

constexpr std::uint64_t kPrefix = 8;
constexpr std::string_view kFetchAgain = "Download the file again";
constexpr std::string_view kSaveAgain = "The file was put together wrongly: save it again";
constexpr const char* kMetadataKey = "__metadata__";

// {"__metadata__": {TEXT: TEXT, …}, NAME: {"dtype": TEXT, "shape": [N, …], "data_offsets": [N, N]}, …}
class HeaderReader final : public JsonEvents {
 public:
  HeaderReader(SafetensorsFile& file, const std::string& name) : JsonEvents(name, 3), file_(file) { set_base(kPrefix); }

  void on_key(std::string&& key) override {
    if (depth() == 1) {
      begin_entry(std::move(key));
    } else if (in_metadata_) {
      auto [at, inserted] = file_.metadata.try_emplace(std::move(key));
      if (!inserted) fail("the metadata key '" + printable(at->first) + "' appears twice");
      metadata_value_ = &at->second;
    } else {
      begin_field(key);
    }
  }

  void on_start(bool object) override {
    if (depth() == 1) {
      if (!object) fail("the header is an array, not an object");
    } else if (depth() == 2) {
      if (!object) fail(subject() + " is described by an array, not an object");
    } else if (in_metadata_ || object || field_ == Field::Dtype || field_ == Field::Other) {
      // An unknown field with a structure of its own could hide anything: the format has none.
      fail(in_metadata_ ? "metadata values must be texts" : subject() + ": " + field_name_ + " has a wrong form");
    }
  }

  void on_scalar(Json&& value) override {
    if (depth() == 0) fail("the header is not an object");
    if (depth() == 1) {
      if (in_metadata_ && value.is_null()) {  // as the reference reads it: no metadata
        in_metadata_ = false;
        return;
      }
      fail(subject() + " is not described by an object");
    }
    if (in_metadata_) {
      if (!value.is_string()) fail("metadata values must be texts");
      *metadata_value_ = std::move(value.get_ref<std::string&>());
    } else if (depth() == 2) {
      scalar_field(value);
    } else {
      number(value);
    }
  }

  void on_end() override {
    // depth() is already that of the surrounding value.
    if (depth() == 1 && !in_metadata_) finish_entry();
    if (depth() == 1) in_metadata_ = false;
  }

 private:
  enum class Field { Dtype, Shape, Offsets, Other };

  std::string subject() const { return in_metadata_ ? kMetadataKey : "tensor '" + printable(*name_) + "'"; }

  void begin_entry(std::string&& key) {
    if (key == kMetadataKey) {
      if (seen_metadata_) fail("__metadata__ appears twice");
      seen_metadata_ = in_metadata_ = true;
      return;
    }
    auto [at, inserted] = file_.entries.try_emplace(std::move(key));
    name_ = &at->first;
    if (!inserted) fail(subject() + " appears twice", kSaveAgain);
    entry_ = &at->second;
    has_dtype_ = has_shape_ = has_offsets_ = false;
    offsets_.clear();
  }

  void begin_field(const std::string& key) {
    field_name_ = printable(key);
    bool* seen = nullptr;
    if (key == "dtype") {
      field_ = Field::Dtype;
      seen = &has_dtype_;
    } else if (key == "shape") {
      field_ = Field::Shape;
      seen = &has_shape_;
    } else if (key == "data_offsets") {
      field_ = Field::Offsets;
      seen = &has_offsets_;
    } else {
      fail(subject() + " has the unknown field '" + field_name_ + "'");
    }
    if (*seen) fail(subject() + ": " + field_name_ + " appears twice");
    *seen = true;
  }

  void scalar_field(const Json& value) {
    if (field_ != Field::Dtype || !value.is_string()) fail(subject() + ": " + field_name_ + " has a wrong form");
    const auto& text = value.get_ref<const std::string&>();
    const auto dtype = dtype_from_name(text);
    if (!dtype) fail(subject() + ": the element type '" + printable(text) + "' is unknown", "Save the model in F32, F16 or BF16");
    entry_->dtype = *dtype;
  }

  void number(const Json& value) {
    // Zero and up are "unsigned" to the parser; floats, negatives and more than 64 bits are not.
    if (!value.is_number_unsigned()) fail(subject() + ": " + field_name_ + " holds something other than a count");
    const auto count = value.get<std::uint64_t>();
    if (field_ == Field::Shape) {
      if (count > static_cast<std::uint64_t>(INT64_MAX)) fail(subject() + ": a dimension of " + std::to_string(count));
      entry_->shape.push_back(static_cast<std::int64_t>(count));
    } else {
      if (offsets_.size() == 2) fail(subject() + ": data_offsets has more than two numbers");
      offsets_.push_back(count);
    }
  }

  void finish_entry() {
    if (!has_dtype_) fail(subject() + " has no dtype");
    if (!has_shape_) fail(subject() + " has no shape");
    if (offsets_.size() != 2) fail(subject() + (has_offsets_ ? ": data_offsets has fewer than two numbers" : " has no data_offsets"));
    entry_->begin = offsets_[0];
    entry_->end = offsets_[1];
  }

  SafetensorsFile& file_;
  bool in_metadata_ = false, seen_metadata_ = false;
  std::string* metadata_value_ = nullptr;
  const std::string* name_ = nullptr;
  SafetensorsEntry* entry_ = nullptr;
  Field field_ = Field::Other;
  std::string field_name_;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  std::vector<std::uint64_t> offsets_;
};

// Bytes of a tensor. Stricter than tensor_bytes() alone: dimensions beside a zero must not overflow either
// (the reference multiplies in order and refuses such shapes).
std::optional<std::uint64_t> stated_bytes(const SafetensorsEntry& entry) {
  std::uint64_t product = dtype_bytes(entry.dtype);
  bool zero = false;
  for (std::int64_t dimension : entry.shape) {
    zero |= dimension == 0;
    if (dimension == 0) continue;
    const auto next = checked_mul(product, static_cast<std::uint64_t>(dimension));
    if (!next) return std::nullopt;
    product = *next;
  }
  return zero ? 0 : product;
}

// Throws unless the tensors tile [0, data_bytes) exactly.
void check_ranges(const SafetensorsFile& file, std::uint64_t data_bytes, const std::string& name) {
  using Item = std::map<std::string, SafetensorsEntry>::value_type;
  std::vector<const Item*> items;
  items.reserve(file.entries.size());
  for (const auto& item : file.entries) items.push_back(&item);
  std::sort(items.begin(), items.end(), [](const Item* a, const Item* b) {
    return std::tie(a->second.begin, a->second.end, a->first) < std::tie(b->second.begin, b->second.end, b->first);
  });
  std::uint64_t covered = 0;
  for (const Item* item : items) {
    const SafetensorsEntry& entry = item->second;
    const auto refuse = [&](const std::string& problem) {
      throw FormatError(name, checked_add(file.data_begin, entry.begin).value_or(FormatError::kNoOffset),
                        "tensor '" + printable(item->first) + "' at [" + std::to_string(entry.begin) + ", " + std::to_string(entry.end) +
                            ") of the data " + problem,
                        kSaveAgain);
    };
    if (entry.end < entry.begin) refuse("ends before it begins");
    if (entry.begin < covered) refuse("overlaps the one before it");
    if (entry.begin > covered) refuse("leaves a hole before it, from " + std::to_string(covered));
    const auto bytes = stated_bytes(entry);
    if (!bytes) refuse("has a shape too large for any memory");
    if (*bytes != entry.end - entry.begin) refuse("has a shape and type that make " + std::to_string(*bytes) + " bytes");
    covered = entry.end;
  }
  if (covered > data_bytes) {
    throw FormatError(
        name,
        "is cut short: its header describes " + std::to_string(covered) + " bytes of tensors, the file holds " + std::to_string(data_bytes),
        kFetchAgain);
  }
  if (covered < data_bytes) {
    throw FormatError(name, file.data_begin + covered, std::to_string(data_bytes - covered) + " bytes lie behind the last tensor",
                      kSaveAgain);
  }
}

std::uint64_t header_length(Bytes bytes, const std::string& name) {
  if (bytes.size() < kPrefix) {
    refuse_wrong_file(bytes, name, "safetensors");
    throw FormatError(name, "is cut short: " + std::to_string(bytes.size()) + " bytes, less than a safetensors file's first field",
                      kFetchAgain);
  }
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > kSafetensorsHeaderLimit) {
    refuse_wrong_file(bytes, name, "safetensors");
    throw FormatError(name, 0,
                      "no safetensors file: a header of " + std::to_string(length) + " bytes, more than the " +
                          std::to_string(kSafetensorsHeaderLimit) + " allowed");
  }
  if (length > bytes.size() - kPrefix) {
    refuse_wrong_file(bytes, name, "safetensors");
    throw FormatError(
        name, 0,
        "is cut short: a header of " + std::to_string(length) + " bytes, of which " + std::to_string(bytes.size() - kPrefix) + " are there",
        kFetchAgain);
  }
  return length;
}

std::string quoted(const std::string& text) {
  try {
    return Json(text).dump();
  } catch (const Json::exception&) {
    throw Error("the name or text '" + printable(text) + "' is not UTF-8 and cannot be written to a safetensors file");
  }
}

}  // namespace

SafetensorsFile read_safetensors(Blob file, const std::string& name) {
  SafetensorsFile result;
  const std::uint64_t length = header_length(file.bytes(), name);
  result.data_begin = kPrefix + length;
  HeaderReader(result, name).run(file.text().substr(kPrefix, length));
  check_ranges(result, file.size() - result.data_begin, name);
  result.file = std::move(file);
  return result;
}

SafetensorsFile open_safetensors(const std::string& path) { return read_safetensors(map_file(path), path); }

std::string safetensors_header(const std::vector<SafetensorsLayout>& tensors, const std::map<std::string, std::string>& metadata,
                               std::size_t alignment) {
  std::string json = "{";
  const auto separate = [&] {
    if (json.size() > 1) json += ',';
  };
  if (!metadata.empty()) {
    json += std::string("\"") + kMetadataKey + "\":{";
    bool first = true;
    for (const auto& [key, value] : metadata) {
      if (!first) json += ',';
      first = false;
      json += quoted(key) + ':' + quoted(value);
    }
    json += '}';
  }
  std::set<std::string_view> names;
  std::uint64_t begin = 0;
  for (const SafetensorsLayout& tensor : tensors) {
    if (tensor.name == kMetadataKey) throw Error("a tensor cannot be named __metadata__ in a safetensors file");
    if (!names.insert(tensor.name).second) throw Error("two tensors are named '" + printable(tensor.name) + "'");
    const auto bytes = tensor_bytes(tensor.dtype, tensor.shape);
    const auto end = bytes ? checked_add(begin, *bytes) : std::nullopt;
    if (!end) throw Error("tensor '" + printable(tensor.name) + "': its shape is too large for a file");
    separate();
    json += quoted(tensor.name) + ":{\"dtype\":\"" + std::string(dtype_name(tensor.dtype)) + "\",\"shape\":[";
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
      if (i) json += ',';
      json += std::to_string(tensor.shape[i]);
    }
    json += "],\"data_offsets\":[" + std::to_string(begin) + ',' + std::to_string(*end) + "]}";
    begin = *end;
  }
  json += '}';

  const std::size_t step = std::max<std::size_t>(alignment, 1);
  json.append((step - (kPrefix + json.size()) % step) % step, ' ');
  if (json.size() > kSafetensorsHeaderLimit)
    throw Error("the safetensors header would take " + std::to_string(json.size()) + " bytes, more than the " +
                std::to_string(kSafetensorsHeaderLimit) + " allowed");
  std::string header(kPrefix, '\0');
  for (std::size_t i = 0; i < kPrefix; ++i) header[i] = static_cast<char>(std::uint64_t{json.size()} >> (8 * i));
  return header + json;
}

}  // namespace miq
