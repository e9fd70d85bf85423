// The question "do these weights share a scale?" answered by trying every float32 number that could be it: slow, and
// plainly right. For the tests of converters/lattice_scale.h.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "miq/formats/dtype.h"

namespace miq::reference {

inline std::uint32_t rounded(float value, DType dtype) {
  if (dtype == DType::F16) value = f16_to_f32(f32_to_f16(value));
  if (dtype == DType::BF16) value = bf16_to_f32(f32_to_bf16(value));
  return std::bit_cast<std::uint32_t>(value);
}

// True when this scale gives every weight with some multiples in -below..above, below + above <= 255.
inline bool scale_gives(float scale, const std::vector<float>& weights, DType dtype) {
  int below = 0, above = 0;
  for (const float weight : weights) {
    if (weight == 0) continue;
    const double ratio = static_cast<double>(weight) / static_cast<double>(scale);
    if (std::abs(ratio) > 400) return false;
    // 16-bit weights may have several multiples; the one nearest to zero takes the fewest levels.
    std::optional<int> smallest;
    for (int k = -300; k <= 300; ++k) {
      if (k == 0 || rounded(scale * static_cast<float>(k), dtype) != std::bit_cast<std::uint32_t>(weight)) continue;
      if (!smallest || std::abs(k) < std::abs(*smallest)) smallest = k;
    }
    if (!smallest) return false;
    if (*smallest < 0) below = std::max(below, -*smallest);
    if (*smallest > 0) above = std::max(above, *smallest);
  }
  return below + above <= 255;
}

// Whether any float32 scale does: all numbers within two roundings of (the smallest weight / j), j = 1..255.
inline bool any_scale_gives(const std::vector<float>& weights, DType dtype) {
  float smallest = 0;
  for (const float weight : weights) {
    if (weight != 0 && (smallest == 0 || std::abs(weight) < smallest)) smallest = std::abs(weight);
  }
  if (smallest == 0) return true;
  for (int j = 1; j <= 255; ++j) {
    const std::uint32_t middle = std::bit_cast<std::uint32_t>(smallest / static_cast<float>(j));
    for (std::uint32_t bits = middle > 4 ? middle - 4 : 1; bits <= middle + 4; ++bits) {
      if (scale_gives(std::bit_cast<float>(bits), weights, dtype)) return true;
    }
  }
  return false;
}

}  // namespace miq::reference
