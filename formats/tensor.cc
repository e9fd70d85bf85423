// What all encodings share, and the choice between them. Every decoder first proves that the sections
// have exactly the sizes that dtype, shape and their own counts demand; only then does it touch data.
#include "miq/formats/tensor.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "miq/base/checked.h"
#include "miq/formats/encodings.h"
#include "miq/formats/packed_matrix.h"

namespace miq {
namespace {

constexpr std::array<std::pair<Encoding, std::string_view>, 5> kEncodings{
    {{Encoding::Dense, "dense"}, {Encoding::Zstd, "zstd"}, {Encoding::Bitmask, "bitmask"}, {Encoding::Packed, "packed"}, {Encoding::Ggml, "ggml"}}};

// Elements whose bits are all zero but for a floating sign bit.
template <typename Word>
std::int64_t zeros_in(Bytes bytes, bool has_sign) {
  const Word magnitude = has_sign ? static_cast<Word>(~Word{0}) >> 1 : static_cast<Word>(~Word{0});
  const std::size_t elements = bytes.size() / sizeof(Word);
  std::int64_t zeros = 0;
  for (std::size_t i = 0; i < elements; ++i) {
    Word word;
    std::memcpy(&word, bytes.data() + i * sizeof(Word), sizeof(Word));
    zeros += (word & magnitude) == 0;
  }
  return zeros;
}

std::int64_t zeros_in(Bytes bytes, DType dtype) {
  const bool has_sign = is_floating(dtype);
  switch (dtype_bytes(dtype)) {
    case 1: return zeros_in<std::uint8_t>(bytes, has_sign);
    case 2: return zeros_in<std::uint16_t>(bytes, has_sign);
    case 4: return zeros_in<std::uint32_t>(bytes, has_sign);
    default: return zeros_in<std::uint64_t>(bytes, has_sign);
  }
}

// About a megabyte of rows at a time: the whole matrix need not be in memory.
std::int64_t zeros_in_packed(const Tensor& tensor, std::string_view name) {
  const PackedDecoder decoder(tensor, name);
  const std::uint64_t row_bytes = static_cast<std::uint64_t>(decoder.cols()) * dtype_bytes(tensor.dtype);
  const std::int64_t step = std::max<std::int64_t>(1, static_cast<std::int64_t>((1u << 20) / row_bytes));
  std::vector<std::uint8_t> buffer(static_cast<std::size_t>(std::min(step, decoder.rows())) * row_bytes);
  std::int64_t zeros = 0;
  for (std::int64_t row = 0; row < decoder.rows(); row += step) {
    const std::int64_t end = std::min(decoder.rows(), row + step);
    const std::span<std::uint8_t> part(buffer.data(), static_cast<std::size_t>(end - row) * row_bytes);
    decoder.decode_rows(row, end, tensor.dtype, part);
    zeros += zeros_in(part, tensor.dtype);
  }
  return zeros;
}

void check_dense(const Tensor& tensor, std::string_view name) {
  encodings::require_sections(tensor, name, {"data"});
  encodings::require_size(name, "data", encodings::section(tensor, name, "data").size(), encodings::decoded_bytes(tensor, name));
}

}  // namespace

namespace encodings {

std::uint64_t decoded_bytes(const Tensor& tensor, std::string_view name) {
  const auto bytes = tensor_bytes(tensor.dtype, tensor.shape);
  if (!bytes || *bytes > static_cast<std::uint64_t>(INT64_MAX)) {
    throw FormatError(subject(name), "its shape is negative or too large", "The file is damaged; make it again from its source");
  }
  return *bytes;
}

Bytes section(const Tensor& tensor, std::string_view name, const char* which) {
  const auto found = tensor.sections.find(which);
  if (found == tensor.sections.end()) {
    throw FormatError(subject(name),
                      "section '" + std::string(which) + "' of encoding " + std::string(encoding_name(tensor.encoding)) + " is missing");
  }
  return found->second.bytes();
}

void require_sections(const Tensor& tensor, std::string_view name, std::initializer_list<const char*> required,
                      std::initializer_list<const char*> optional) {
  for (const char* which : required) section(tensor, name, which);
  for (const auto& [which, blob] : tensor.sections) {
    const auto is_this = [&which = which](const char* known) { return which == known; };
    if (std::any_of(required.begin(), required.end(), is_this) || std::any_of(optional.begin(), optional.end(), is_this)) continue;
    throw FormatError(subject(name), "section '" + which + "' does not belong to encoding " + std::string(encoding_name(tensor.encoding)));
  }
}

void require_size(std::string_view name, const char* which, std::uint64_t found, std::uint64_t expected) {
  if (found == expected) return;
  throw FormatError(subject(name), "section '" + std::string(which) + "' has " + std::to_string(found) + " bytes where " +
                                       std::to_string(expected) + " are needed");
}

}  // namespace encodings

std::string_view encoding_name(Encoding encoding) {
  for (const auto& [known, name] : kEncodings) {
    if (known == encoding) return name;
  }
  return "unknown";
}

std::optional<Encoding> encoding_from_name(std::string_view name) {
  for (const auto& [encoding, known] : kEncodings) {
    if (known == name) return encoding;
  }
  return std::nullopt;
}

std::int64_t Tensor::elements() const { return static_cast<std::int64_t>(checked_elements(shape).value_or(0)); }

std::uint64_t Tensor::stored_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& [name, blob] : sections) bytes += blob.size();
  return bytes;
}

Tensor dense_tensor(DType dtype, Shape shape, Blob data) {
  Tensor tensor;
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  tensor.sections.emplace("data", std::move(data));
  return tensor;
}

void check_tensor(const Tensor& tensor, std::string_view name) {
  switch (tensor.encoding) {
    case Encoding::Dense: return check_dense(tensor, name);
    case Encoding::Zstd: return encodings::check_zstd(tensor, name);
    case Encoding::Bitmask: return encodings::check_bitmask(tensor, name);
    case Encoding::Packed: PackedDecoder(tensor, name); return;
    case Encoding::Ggml: return encodings::check_ggml(tensor, name);
  }
  throw FormatError(encodings::subject(name), "it has no known encoding");
}

void decode(const Tensor& tensor, std::string_view name, std::span<std::uint8_t> out, ThreadPool* pool) {
  const std::uint64_t bytes = encodings::decoded_bytes(tensor, name);
  if (out.size() != bytes) {
    throw Error("tensor " + std::string(name) + " decodes to " + std::to_string(bytes) + " bytes; the buffer has " +
                std::to_string(out.size()));
  }
  switch (tensor.encoding) {
    case Encoding::Dense:
      check_dense(tensor, name);
      if (bytes != 0) std::memcpy(out.data(), encodings::section(tensor, name, "data").data(), bytes);
      return;
    case Encoding::Zstd: return encodings::decode_zstd(tensor, name, out);
    case Encoding::Bitmask: return encodings::decode_bitmask(tensor, name, out);
    case Encoding::Packed: return PackedDecoder(tensor, name).decode(tensor.dtype, out, pool);
    case Encoding::Ggml: return encodings::decode_ggml(tensor, name, out, pool);
  }
  throw FormatError(encodings::subject(name), "it has no known encoding");
}

Blob decode(const Tensor& tensor, std::string_view name, ThreadPool* pool) {
  if (tensor.encoding == Encoding::Dense) {
    check_dense(tensor, name);
    return tensor.sections.at("data");
  }
  check_tensor(tensor, name);  // before memory is taken for what a damaged shape claims
  std::vector<std::uint8_t> out(encodings::decoded_bytes(tensor, name));
  decode(tensor, name, out, pool);
  return Blob(std::move(out));
}

Tensor encode_best(const Tensor& dense, bool allow_zstd) {
  const Blob data = decode(dense, "being encoded");
  Tensor best = dense_tensor(dense.dtype, dense.shape, data);
  const Tensor plain = best;
  std::uint64_t smallest = plain.stored_bytes() / 20 * 19;
  const auto consider = [&](Tensor candidate) {
    if (candidate.stored_bytes() > smallest) return;
    smallest = candidate.stored_bytes() - 1;  // the first of equals stays
    best = std::move(candidate);
  };
  if (plain.stored_bytes() == 0) return plain;
  // -0.0 is counted as a zero here though the mask keeps it: never too few.
  const auto zeros = static_cast<std::uint64_t>(count_zeros(plain, "being encoded"));
  if (zeros * dtype_bytes(plain.dtype) > plain.stored_bytes() / 20) consider(encode_bitmask(plain));
  if (allow_zstd) consider(encode_zstd(plain));
  return best;
}

std::int64_t count_zeros(const Tensor& tensor, std::string_view name) {
  if (tensor.encoding == Encoding::Packed) return zeros_in_packed(tensor, name);
  if (tensor.encoding == Encoding::Bitmask) {
    encodings::check_bitmask(tensor, name);
    const Bytes values = encodings::section(tensor, name, "values");
    const auto stored = static_cast<std::int64_t>(values.size() / dtype_bytes(tensor.dtype));
    return tensor.elements() - stored + zeros_in(values, tensor.dtype);
  }
  return zeros_in(decode(tensor, name).bytes(), tensor.dtype);
}

}  // namespace miq
