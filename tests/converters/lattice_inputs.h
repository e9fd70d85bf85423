// Matrices that lie on lattices, as other tools leave them: made here, with the codes that they were made of.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "miq/formats/tensor.h"

namespace miq {

inline Tensor matrix_of(const std::vector<float>& values, std::int64_t rows, std::int64_t cols, DType dtype) {
  std::vector<std::uint8_t> bytes(values.size() * dtype_bytes(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::F32) std::memcpy(bytes.data() + i * 4, &values[i], 4);
    const std::uint16_t half = dtype == DType::F16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
    if (dtype != DType::F32) std::memcpy(bytes.data() + i * 2, &half, 2);
  }
  return dense_tensor(dtype, {rows, cols}, Blob(std::move(bytes)));
}

struct LatticeRecipe {
  std::int64_t rows = 24, cols = 64;
  std::vector<int> bits_of_column;  // [cols]; columns of one width share a row's scale
  std::int64_t group_size = 0;      // or runs of columns, each with its own min-max (0: the row)
  double sparsity = 0;              // pruned after rounding
  bool symmetric = false;
  float magnitude = 0.05f;
};

// SparseGPT's quantizer (quant.py: find_params, quantize), in float32: scale * (clamp(round(x / scale) + zero) - zero).
inline std::vector<float> fake_quantized(const LatticeRecipe& recipe, std::mt19937& random) {
  std::normal_distribution<float> normal(0, recipe.magnitude);
  std::uniform_real_distribution<double> uniform(0, 1);
  const std::int64_t run = recipe.group_size == 0 ? recipe.cols : recipe.group_size;
  std::vector<float> values(static_cast<std::size_t>(recipe.rows * recipe.cols));
  for (float& value : values) value = normal(random);
  for (std::int64_t r = 0; r < recipe.rows; ++r) {
    for (std::int64_t begin = 0; begin < recipe.cols; begin += run) {
      const std::int64_t end = std::min(recipe.cols, begin + run);
      float low = 0, high = 0;
      for (std::int64_t c = begin; c < end; ++c) {
        low = std::min(low, values[static_cast<std::size_t>(r * recipe.cols + c)]);
        high = std::max(high, values[static_cast<std::size_t>(r * recipe.cols + c)]);
      }
      if (recipe.symmetric) {
        high = std::max(-low, high);
        low = -high;
      }
      for (std::int64_t c = begin; c < end; ++c) {
        const float largest = static_cast<float>((1 << recipe.bits_of_column[static_cast<std::size_t>(c)]) - 1);
        const float scale = (high - low) / largest;
        const float zero = recipe.symmetric ? (largest + 1) / 2 : std::nearbyint(-low / scale);
        float& value = values[static_cast<std::size_t>(r * recipe.cols + c)];
        const float code = std::min(std::max(std::nearbyint(value / scale) + zero, 0.0f), largest);
        value = uniform(random) < recipe.sparsity ? 0.0f : scale * (code - zero);
      }
    }
  }
  return values;
}

}  // namespace miq
