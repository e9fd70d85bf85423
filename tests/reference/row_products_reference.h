// Products and attention of one token, in double and one element at a time.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace miq::reference {

// sum over i < in of x[i] * w[i], and of the sizes of the terms.
struct Dot {
  double value = 0, size = 0;
};
inline Dot dot(const float* x, const float* w, std::int64_t in) {
  Dot sum;
  for (std::int64_t i = 0; i < in; ++i) {
    sum.value += static_cast<double>(x[i]) * w[i];
    sum.size += std::abs(static_cast<double>(x[i]) * w[i]);
  }
  return sum;
}

}  // namespace miq::reference
