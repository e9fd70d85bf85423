// Random packed matrices with the size of real weights.
#pragma once

#include <cmath>
#include <random>
#include <vector>

#include "miq/formats/dtype.h"
#include "miq/formats/packed_matrix.h"

namespace miq::test {

// How a random matrix is packed.
struct Form {
  std::vector<std::uint8_t> bits;  // of groups, in turn
  bool scattered = false, masked = false;
};

inline Tensor random_packed(std::int64_t rows, std::int64_t cols, const Form& form, std::uint32_t seed, DType decoded = DType::BF16) {
  std::mt19937 random(seed);
  PackedMatrix matrix;
  matrix.rows = rows;
  matrix.cols = cols;
  matrix.bits_of_group = form.bits;
  const std::size_t groups = form.bits.size();
  for (std::int64_t c = 0; c < cols; ++c) {
    matrix.group_of_column.push_back(static_cast<std::uint16_t>(form.scattered ? random() % groups : static_cast<std::size_t>(c) * groups / static_cast<std::size_t>(cols)));
  }
  for (std::size_t g = 0; g < groups; ++g) {
    for (std::int64_t row = 0; row < rows; ++row) {
      const float step = 4 / std::sqrt(static_cast<float>(cols)) / static_cast<float>(1 << form.bits[g]);
      matrix.scales.push_back(f16_to_f32(f32_to_f16(step * std::uniform_real_distribution<float>(0.5f, 1)(random))));
      matrix.zeros.push_back(static_cast<std::uint8_t>(1 << (form.bits[g] - 1)));
    }
  }
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    const unsigned bits = form.bits[matrix.group_of_column[static_cast<std::size_t>(i % cols)]];
    const bool kept = !form.masked || random() % 2 == 0;
    if (form.masked) matrix.kept.push_back(kept);
    matrix.codes.push_back(kept ? static_cast<std::uint8_t>(random() % (1u << bits)) : 0);
  }
  return pack(matrix, decoded);
}

}  // namespace miq::test
