// The slowest reader of packed tensors: straight from spec/miq.md, one bit at a time. It shares no
// code with the library but the conversion of 16-bit floats, which has tests of its own.
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "miq/formats/packed_matrix.h"

namespace miq::reference {

class BitReader {
 public:
  explicit BitReader(Bytes bytes) : bytes_(bytes) {}
  unsigned take(int bits) {
    unsigned value = 0;
    for (int i = 0; i < bits; ++i, ++at_) value |= static_cast<unsigned>((bytes_[at_ / 8] >> (at_ % 8)) & 1) << i;
    return value;
  }
  void to_byte() { at_ = (at_ + 7) / 8 * 8; }
  bool at_end() const { return at_ == bytes_.size() * 8; }

 private:
  Bytes bytes_;
  std::size_t at_ = 0;
};

// The float32 weights, row-major.
inline std::vector<float> decode_packed(const Tensor& tensor) {
  const auto rows = static_cast<std::size_t>(tensor.shape[0]), cols = static_cast<std::size_t>(tensor.shape[1]);
  const Bytes widths = tensor.sections.at("bits").bytes(), scales = tensor.sections.at("scales").bytes();
  const bool masked = tensor.sections.count("mask") != 0, wide = scales.size() == widths.size() * rows * 4;
  int index_bits = 0;
  while ((std::size_t{1} << index_bits) < widths.size()) ++index_bits;
  std::vector<unsigned> group_of(cols, 0);
  if (index_bits > 0) {
    BitReader indices(tensor.sections.at("groups").bytes());
    for (auto& group : group_of) group = indices.take(index_bits);
  }
  BitReader codes(tensor.sections.at("codes").bytes()), zeros(tensor.sections.at("zeros").bytes());
  BitReader mask(masked ? tensor.sections.at("mask").bytes() : Bytes());
  const int scale_bits = tensor.sections.count("exponents") ? tensor.sections.at("exponents").bytes()[0] : 0;
  BitReader ranges(scales);
  std::vector<float> weights(rows * cols);
  for (std::size_t g = 0; g < widths.size(); ++g) {
    for (std::size_t r = 0; r < rows; ++r) {
      float scale;
      if (scale_bits > 0) {
        const auto code = static_cast<int>(ranges.take(scale_bits)), steps = 1 << (scale_bits - 3);
        const double part = 1 + static_cast<double>(code % steps) / steps;
        const double range = std::ldexp(part, code / steps - 7 + tensor.sections.at("exponents").bytes()[r + 1] - 127);
        scale = static_cast<float>(range) / static_cast<float>((1 << widths[g]) - 1);
      } else if (wide) {
        std::memcpy(&scale, scales.data() + (g * rows + r) * 4, 4);
      } else {
        std::uint16_t half;
        std::memcpy(&half, scales.data() + (g * rows + r) * 2, 2);
        scale = f16_to_f32(half);
      }
      const int zero = static_cast<int>(zeros.take(widths[g]));
      for (std::size_t c = 0; c < cols; ++c) {
        if (group_of[c] != g || (masked && mask.take(1) == 0)) continue;
        const int code = static_cast<int>(codes.take(widths[g]));
        weights[r * cols + c] = scale * static_cast<float>(code - zero);
      }
    }
    codes.to_byte();
    zeros.to_byte();
  }
  return weights;
}

// The formula of packed_matrix.h on the working form.
inline std::vector<float> decode_matrix(const PackedMatrix& matrix) {
  std::vector<float> weights(static_cast<std::size_t>(matrix.rows * matrix.cols));
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    for (std::int64_t c = 0; c < matrix.cols; ++c) {
      const auto at = static_cast<std::size_t>(r * matrix.cols + c);
      const auto pair = static_cast<std::size_t>(matrix.group_of_column[static_cast<std::size_t>(c)] * matrix.rows + r);
      if (!matrix.kept.empty() && !matrix.kept[at]) continue;
      weights[at] = matrix.scales[pair] * static_cast<float>(static_cast<int>(matrix.codes[at]) - static_cast<int>(matrix.zeros[pair]));
    }
  }
  return weights;
}

}  // namespace miq::reference
