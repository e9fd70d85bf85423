// The bitmask encoding: one bit an element says whether its value is stored. An element is left out
// only when all its bits are zero, so -0.0, NaN payloads and denormals come back bit by bit.
#include <bit>
#include <cstring>
#include <vector>

#include "miq/formats/encodings.h"

namespace miq {
namespace {

std::uint64_t count_bits(Bytes bytes) {
  std::uint64_t count = 0;
  std::size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    std::uint64_t word;
    std::memcpy(&word, bytes.data() + i, 8);
    count += static_cast<std::uint64_t>(std::popcount(word));
  }
  for (; i < bytes.size(); ++i) count += static_cast<std::uint64_t>(std::popcount(bytes[i]));
  return count;
}

template <typename Word>
Word load(const std::uint8_t* from, std::size_t index) {
  Word word;
  std::memcpy(&word, from + index * sizeof(Word), sizeof(Word));
  return word;
}

template <typename Word>
void expand(Bytes mask, Bytes values, std::span<std::uint8_t> out) {
  const std::size_t elements = out.size() / sizeof(Word), stored = values.size() / sizeof(Word);
  std::size_t next = 0, i = 0;
  // Without branches, a word is read even where no bit asks for it: stay clear of the last values.
  for (; i + 8 <= elements && next + 8 < stored; i += 8) {
    const unsigned bits = mask[i / 8];
    for (unsigned j = 0; j < 8; ++j) {
      const Word bit = (bits >> j) & 1;
      const Word word = static_cast<Word>(load<Word>(values.data(), next) & static_cast<Word>(Word{0} - bit));
      std::memcpy(out.data() + (i + j) * sizeof(Word), &word, sizeof(Word));
      next += bit;
    }
  }
  for (; i < elements; ++i) {
    const bool is_stored = (mask[i / 8] >> (i % 8)) & 1;
    const Word word = is_stored ? load<Word>(values.data(), next++) : Word{0};
    std::memcpy(out.data() + i * sizeof(Word), &word, sizeof(Word));
  }
}

template <typename Word>
void compress(Bytes data, std::vector<std::uint8_t>& mask, std::vector<std::uint8_t>& values) {
  const std::size_t elements = data.size() / sizeof(Word);
  for (std::size_t i = 0; i < elements; ++i) {
    mask[i / 8] = static_cast<std::uint8_t>(mask[i / 8] | (load<Word>(data.data(), i) != 0) << (i % 8));
  }
  values.resize(count_bits(mask) * sizeof(Word) + sizeof(Word));  // one more, which every zero may be written to
  std::uint8_t* to = values.data();
  for (std::size_t i = 0; i < elements; ++i) {
    const Word word = load<Word>(data.data(), i);
    std::memcpy(to, &word, sizeof(Word));
    to += word != 0 ? sizeof(Word) : 0;
  }
  values.resize(values.size() - sizeof(Word));
}

}  // namespace

namespace encodings {

void check_bitmask(const Tensor& tensor, std::string_view name) {
  const std::uint64_t width = dtype_bytes(tensor.dtype), elements = decoded_bytes(tensor, name) / width;
  require_sections(tensor, name, {"mask", "values"});
  const Bytes mask = section(tensor, name, "mask");
  require_size(name, "mask", mask.size(), elements / 8 + (elements % 8 != 0));
  if (elements % 8 != 0 && (mask.back() >> (elements % 8)) != 0) {
    throw FormatError(subject(name), "section 'mask' has bits beyond the last element");
  }
  require_size(name, "values", section(tensor, name, "values").size(), count_bits(mask) * width);
}

void decode_bitmask(const Tensor& tensor, std::string_view name, std::span<std::uint8_t> out) {
  check_bitmask(tensor, name);
  const Bytes mask = section(tensor, name, "mask"), values = section(tensor, name, "values");
  switch (dtype_bytes(tensor.dtype)) {
    case 1: return expand<std::uint8_t>(mask, values, out);
    case 2: return expand<std::uint16_t>(mask, values, out);
    case 4: return expand<std::uint32_t>(mask, values, out);
    default: return expand<std::uint64_t>(mask, values, out);
  }
}

}  // namespace encodings

Tensor encode_bitmask(const Tensor& dense) {
  const Blob data = decode(dense, "being encoded");
  const std::size_t width = dtype_bytes(dense.dtype), elements = data.size() / width;
  std::vector<std::uint8_t> mask(elements / 8 + (elements % 8 != 0)), values;
  switch (width) {
    case 1: compress<std::uint8_t>(data.bytes(), mask, values); break;
    case 2: compress<std::uint16_t>(data.bytes(), mask, values); break;
    case 4: compress<std::uint32_t>(data.bytes(), mask, values); break;
    default: compress<std::uint64_t>(data.bytes(), mask, values); break;
  }
  Tensor tensor;
  tensor.encoding = Encoding::Bitmask;
  tensor.dtype = dense.dtype;
  tensor.shape = dense.shape;
  tensor.sections.emplace("mask", Blob(std::move(mask)));
  tensor.sections.emplace("values", Blob(std::move(values)));
  return tensor;
}

}  // namespace miq
