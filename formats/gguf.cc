// A cursor over the bytes that refuses to pass the end; every count is held against the bytes left (each
// entry takes at least so many) before memory is taken for it. Names are kept in ordered maps and the
// tensors' ranges are sorted, so nothing grows faster than n log n. Products of file numbers are checked.
#include "miq/formats/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <string_view>
#include <tuple>

#include "miq/base/checked.h"
#include "miq/base/error.h"
#include "miq/formats/gguf_blocks.h"
#include "miq/formats/json_events.h"
#include "miq/formats/mapped_file.h"
#include "miq/formats/wrong_file.h"

namespace miq {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr std::string_view kFetchAgain = "Download the file again";
constexpr std::string_view kSaveAgain = "The file was put together wrongly: convert it again";
constexpr std::uint64_t kNameLimit = 64;    // tensor names; docs/gguf.md
constexpr std::uint64_t kKeyLimit = 65535;  // metadata keys; docs/gguf.md
constexpr std::uint32_t kRankLimit = 4;     // GGML_MAX_DIMS
constexpr std::uint64_t kAlignmentLimit = 1 << 20;
// The fewest bytes that an entry can take: empty key, type, one byte; and empty name, rank, type, offset.
constexpr std::uint64_t kSmallestValue = 8 + 4 + 1;
constexpr std::uint64_t kSmallestTensor = 8 + 4 + 4 + 8;

enum ValueType : std::uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64, kTypes };

class Reader {
 public:
  Reader(Blob file, const std::string& name) : file_(std::move(file)), name_(name) {}
  GgufFile read();

 private:
  // Where a tensor lies, relative to the data part.
  struct Range {
    std::uint64_t begin, bytes;
    const std::string* name;
    GgufTensor* tensor;
  };

  [[noreturn]] void fail(std::string_view problem, std::string_view remedy = {}) const { throw FormatError(name_, at_, problem, remedy); }
  std::uint64_t left() const { return file_.size() - at_; }

  void need(std::uint64_t bytes, std::string_view what) const {
    if (bytes > left()) {
      fail("is cut short: " + std::string(what) + " takes " + std::to_string(bytes) + " bytes, " + std::to_string(left()) + " are left",
           kFetchAgain);
    }
  }

  template <class T>
  T take(std::string_view what) {
    need(sizeof(T), what);
    T value;
    std::memcpy(&value, file_.bytes().data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }

  std::string take_string(std::string_view what) {
    const auto length = take<std::uint64_t>(what);
    need(length, what);
    std::string text(file_.text().substr(at_, length));
    at_ += length;
    return text;
  }

  // How many entries follow, each of at least `smallest` bytes.
  std::uint64_t check_count(std::uint64_t count, std::uint64_t smallest, std::string_view what) const {
    if (count > left() / smallest) {
      fail("states " + std::to_string(count) + " " + std::string(what) + ", more than the " + std::to_string(left()) +
               " bytes left can hold",
           "The file is cut short or damaged: download it again");
    }
    return count;
  }

  bool take_bool(std::string_view what) {
    const auto byte = take<std::uint8_t>(what);
    if (byte > 1) fail("a truth value of " + std::to_string(byte));
    return byte == 1;
  }

  template <class Stored, class Kept>
  GgufValue numbers(std::uint64_t count, std::string_view what) {
    check_count(count, sizeof(Stored), "array elements");
    std::vector<Kept> values(count);
    for (Kept& value : values) value = static_cast<Kept>(take<Stored>(what));
    return values;
  }

  void check_start(GgufFile& result);
  void take_value(GgufFile& result);
  GgufValue take_scalar(std::uint32_t type, std::string_view key);
  GgufValue take_array(std::string_view key);
  void take_tensor(GgufFile& result);
  void place_tensors(GgufFile& result);

  Blob file_;
  const std::string& name_;
  std::uint64_t at_ = 0;
  std::uint64_t alignment_ = 32;
  std::uint64_t tensor_count_ = 0, value_count_ = 0;
  std::vector<Range> ranges_;
};

void Reader::check_start(GgufFile& result) {
  if (!file_.text().starts_with(kMagic)) {
    refuse_wrong_file(file_.bytes(), name_, "GGUF");
    if (kMagic.starts_with(file_.text())) fail("is cut short: " + std::to_string(file_.size()) + " bytes", kFetchAgain);
    fail("no GGUF file: it begins with '" + printable(file_.text().substr(0, 4)) + "'");
  }
  at_ = kMagic.size();
  result.version = take<std::uint32_t>("the version");
  // Big-endian files state their version in their own byte order.
  const auto swapped = __builtin_bswap32(result.version);
  if (result.version > 0xffff && swapped <= 0xffff) {
    fail("is a big-endian GGUF file, which miq does not read",
         "Convert it with gguf-py's gguf_convert_endian.py, or get the little-endian one");
  }
  if (result.version < 2) {
    fail("is of GGUF version " + std::to_string(result.version) + "; versions 2 and 3 are read",
         "Convert the model again with a llama.cpp of September 2023 or later");
  }
  if (result.version > 3)
    fail("is of GGUF version " + std::to_string(result.version) + "; versions 2 and 3 are read", "Look for a newer miq");
  tensor_count_ = take<std::uint64_t>("the number of tensors");
  value_count_ = take<std::uint64_t>("the number of metadata values");
}

GgufValue Reader::take_scalar(std::uint32_t type, std::string_view key) {
  switch (type) {
    case kU8: return std::uint64_t{take<std::uint8_t>(key)};
    case kI8: return std::int64_t{take<std::int8_t>(key)};
    case kU16: return std::uint64_t{take<std::uint16_t>(key)};
    case kI16: return std::int64_t{take<std::int16_t>(key)};
    case kU32: return std::uint64_t{take<std::uint32_t>(key)};
    case kI32: return std::int64_t{take<std::int32_t>(key)};
    case kU64: return take<std::uint64_t>(key);
    case kI64: return take<std::int64_t>(key);
    case kF32: return double{take<float>(key)};
    case kF64: return take<double>(key);
    case kBool: return take_bool(key);
    case kString: return take_string(key);
    default: fail("metadata '" + printable(key) + "' has the unknown type " + std::to_string(type), kSaveAgain);
  }
}

GgufValue Reader::take_array(std::string_view key) {
  const auto type = take<std::uint32_t>(key);
  const auto count = take<std::uint64_t>(key);
  switch (type) {
    case kU8: return numbers<std::uint8_t, std::uint64_t>(count, key);
    case kI8: return numbers<std::int8_t, std::int64_t>(count, key);
    case kU16: return numbers<std::uint16_t, std::uint64_t>(count, key);
    case kI16: return numbers<std::int16_t, std::int64_t>(count, key);
    case kU32: return numbers<std::uint32_t, std::uint64_t>(count, key);
    case kI32: return numbers<std::int32_t, std::int64_t>(count, key);
    case kU64: return numbers<std::uint64_t, std::uint64_t>(count, key);
    case kI64: return numbers<std::int64_t, std::int64_t>(count, key);
    case kF32: return numbers<float, double>(count, key);
    case kF64: return numbers<double, double>(count, key);
    case kBool: {
      std::vector<bool> values(check_count(count, 1, "array elements"));
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = take_bool(key);
      return values;
    }
    case kString: {
      std::vector<std::string> values(check_count(count, 8, "array elements"));
      for (std::string& value : values) value = take_string(key);
      return values;
    }
    case kArray: fail("metadata '" + printable(key) + "' is an array of arrays, which miq does not read");
    default: fail("metadata '" + printable(key) + "' is an array of the unknown type " + std::to_string(type), kSaveAgain);
  }
}

void Reader::take_value(GgufFile& result) {
  std::string key = take_string("a metadata key");
  if (key.empty()) fail("a metadata key is empty", kSaveAgain);
  if (key.size() > kKeyLimit) fail("a metadata key of " + std::to_string(key.size()) + " bytes", kSaveAgain);
  const auto [place, inserted] = result.metadata.try_emplace(std::move(key));
  const std::string& kept = place->first;
  if (!inserted) fail("the metadata key '" + printable(kept) + "' appears twice", kSaveAgain);
  const auto type = take<std::uint32_t>(kept);
  place->second = type == kArray ? take_array(kept) : take_scalar(type, kept);

  if (kept != "general.alignment") return;
  if (type != kU32) fail("general.alignment is not an unsigned 32-bit number", kSaveAgain);
  alignment_ = std::get<std::uint64_t>(place->second);
  if (!std::has_single_bit(alignment_) || alignment_ > kAlignmentLimit) {
    fail("general.alignment is " + std::to_string(alignment_) + ", not a power of two up to " + std::to_string(kAlignmentLimit),
         kSaveAgain);
  }
}

void Reader::take_tensor(GgufFile& result) {
  std::string key = take_string("a tensor's name");
  if (key.empty()) fail("a tensor's name is empty", kSaveAgain);
  if (key.size() > kNameLimit)
    fail("a tensor's name of " + std::to_string(key.size()) + " bytes; the format allows " + std::to_string(kNameLimit), kSaveAgain);
  const auto [place, inserted] = result.tensors.try_emplace(std::move(key));
  const std::string subject = "tensor '" + printable(place->first) + "'";
  if (!inserted) fail(subject + " appears twice", kSaveAgain);
  GgufTensor& tensor = place->second;

  const auto rank = take<std::uint32_t>(subject);
  if (rank > kRankLimit)
    fail(subject + " has " + std::to_string(rank) + " dimensions, more than " + std::to_string(kRankLimit), kSaveAgain);
  for (std::uint32_t i = 0; i < rank; ++i) {
    const auto dimension = take<std::uint64_t>(subject);
    if (dimension > static_cast<std::uint64_t>(INT64_MAX)) fail(subject + " has a dimension of " + std::to_string(dimension), kSaveAgain);
    tensor.shape.push_back(static_cast<std::int64_t>(dimension));
  }
  tensor.type = take<std::uint32_t>(subject);
  const auto offset = take<std::uint64_t>(subject);
  if (offset % alignment_ != 0)
    fail(subject + " begins at " + std::to_string(offset) + ", no multiple of the alignment " + std::to_string(alignment_), kSaveAgain);

  std::uint64_t bytes = 0;
  if (const GgufBlockType* type = gguf_block_type(tensor.type)) {
    // The fastest dimension, stored first, is cut into blocks.
    const std::uint64_t row = tensor.shape.empty() ? 1 : static_cast<std::uint64_t>(tensor.shape[0]);
    if (row % type->elements != 0) {
      fail(subject + ": rows of " + std::to_string(row) + " elements cannot be cut into " + std::string(type->name) + " blocks of " +
               std::to_string(type->elements),
           kSaveAgain);
    }
    const auto elements = checked_elements(tensor.shape);
    const auto size = elements ? checked_mul(*elements / type->elements, std::uint64_t{type->bytes}) : std::nullopt;
    if (!size) fail(subject + " has a shape too large for any memory", kSaveAgain);
    bytes = *size;
  }
  std::reverse(tensor.shape.begin(), tensor.shape.end());
  ranges_.push_back({offset, bytes, &place->first, &tensor});
}

void Reader::place_tensors(GgufFile&) {
  const std::uint64_t padding = (alignment_ - at_ % alignment_) % alignment_;
  const auto data = checked_add(at_, padding);
  std::sort(ranges_.begin(), ranges_.end(),
            [](const Range& a, const Range& b) { return std::tie(a.begin, a.bytes) < std::tie(b.begin, b.bytes); });
  std::uint64_t covered = 0;
  for (const Range& range : ranges_) {
    const std::string subject = "tensor '" + printable(*range.name) + "'";
    const auto begin = data ? checked_add(*data, range.begin) : std::nullopt;
    const auto end = begin ? checked_add(*begin, range.bytes) : std::nullopt;
    if (!end || *end > file_.size()) {
      throw FormatError(name_,
                        subject + " lies at " + std::to_string(range.begin) + " of the data with " + std::to_string(range.bytes) +
                            " bytes, beyond the end of the file (" + std::to_string(file_.size()) + " bytes)",
                        "The file is cut short: download it again");
    }
    if (range.bytes == 0) continue;
    if (range.begin < covered) throw FormatError(name_, *begin, subject + " overlaps the tensor before it", kSaveAgain);
    covered = range.begin + range.bytes;
    range.tensor->data = file_.slice(*begin, range.bytes);
  }
}

GgufFile Reader::read() {
  GgufFile result;
  check_start(result);
  check_count(value_count_, kSmallestValue, "metadata values");
  for (std::uint64_t i = 0; i < value_count_; ++i) take_value(result);
  ranges_.reserve(check_count(tensor_count_, kSmallestTensor, "tensors"));
  for (std::uint64_t i = 0; i < tensor_count_; ++i) take_tensor(result);
  place_tensors(result);
  return result;
}

}  // namespace

GgufFile read_gguf(Blob file, const std::string& name) { return Reader(std::move(file), name).read(); }

GgufFile open_gguf(const std::string& path) { return read_gguf(map_file(path), path); }

std::string ggml_type_name(std::uint32_t type) {
  const GgufBlockType* known = gguf_block_type(type);
  return known ? std::string(known->name) : "type " + std::to_string(type);
}

bool ggml_type_decodable(std::uint32_t type) {
  const GgufBlockType* known = gguf_block_type(type);
  return known && known->decode;
}

std::pair<std::uint32_t, std::uint32_t> ggml_block(std::uint32_t type) {
  const GgufBlockType* known = gguf_block_type(type);
  return known ? std::pair{known->elements, known->bytes} : std::pair{0u, 0u};
}

namespace {

// The type of a tensor whose bytes fit its shape. Throws FormatError.
const GgufBlockType& checked_type(const GgufTensor& tensor, const std::string& name) {
  const GgufBlockType* type = gguf_block_type(tensor.type);
  if (!type || !type->decode) {
    throw FormatError(name, "is stored as " + ggml_type_name(tensor.type) + ", which miq cannot decode",
                      "Use a file in F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or Q2_K to Q6_K");
  }
  const auto elements = checked_elements(tensor.shape);
  if (!elements || *elements % type->elements != 0 || tensor.data.size() % type->bytes != 0 ||
      tensor.data.size() / type->bytes != *elements / type->elements) {
    throw FormatError(name, std::to_string(tensor.data.size()) + " bytes of " + std::string(type->name) + " do not fit its shape");
  }
  return *type;
}

std::int64_t blocks_of(const GgufTensor& tensor, const GgufBlockType& type) { return static_cast<std::int64_t>(tensor.data.size() / type.bytes); }

void refuse_bad_block(std::int64_t bad, const GgufBlockType& type, const std::string& name) {
  if (bad < 0) return;
  throw FormatError(name,
                    "block " + std::to_string(bad) + " (from element " + std::to_string(static_cast<std::uint64_t>(bad) * type.elements) +
                        ") has a scale that is not finite",
                    "The file is damaged or was made from a broken model: get another");
}

}  // namespace

std::vector<float> dequantize_gguf(const GgufTensor& tensor, const std::string& name) {
  const GgufBlockType& type = checked_type(tensor, name);
  const std::int64_t blocks = blocks_of(tensor, type);
  std::vector<float> values(static_cast<std::size_t>(blocks) * type.elements);
  refuse_bad_block(type.decode(tensor.data.bytes().data(), blocks, values.data()), type, name);
  return values;
}

Tensor gguf_stored(const GgufTensor& tensor, const std::string& name) {
  const GgufBlockType& type = checked_type(tensor, name);
  if (type.elements == 1) {
    const DType dtype = type.name == "F32" ? DType::F32 : type.name == "F16" ? DType::F16 : DType::BF16;
    return dense_tensor(dtype, tensor.shape, tensor.data);
  }
  refuse_bad_block(type.first_bad(tensor.data.bytes().data(), blocks_of(tensor, type)), type, name);
  Tensor stored;
  stored.encoding = Encoding::Ggml;
  stored.shape = tensor.shape;
  stored.sections.emplace(std::string(type.name), tensor.data);
  return stored;
}

}  // namespace miq
