// Sums over windows as exact_sums.h defines them, in the order and the precision of a page of paper.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace miq::reference {

// The power of two s with s^2 in (2^-26, 2^-24] times the energy.
inline double step_of(double energy) {
  double step = std::ldexp(1.0, -200);
  while (4 * step * step <= std::ldexp(energy, -24)) step *= 2;
  return step;
}

// To the nearest multiple, ties to even.
inline double on_grid(double value, double step) { return std::nearbyint(value / step) * step; }

// To 24 bits, ties away from zero.
inline double in_24_bits(double value) {
  if (value == 0) return 0;
  int exponent;
  const double mantissa = std::frexp(value, &exponent);  // [0.5, 1)
  return std::ldexp(std::round(std::ldexp(mantissa, 24)), exponent - 24);
}

// The parts of one window x [tokens][n]: entries [n * n] in float32 as summed by `dot`, rounded; and the energies' steps [n].
struct Part {
  std::vector<float> entries;
  std::vector<double> steps;
};
inline Part part_of(const float* x, std::int64_t tokens, std::int64_t n) {
  Part part;
  for (std::int64_t j = 0; j < n; ++j) {
    double energy = 0;
    for (std::int64_t t = 0; t < tokens; ++t) energy += static_cast<double>(x[t * n + j]) * x[t * n + j];
    part.steps.push_back(step_of(static_cast<float>(energy)));
  }
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      float sum = 0;
      for (std::int64_t t = 0; t < tokens; ++t) sum += x[t * n + i] * x[t * n + j];
      part.entries.push_back(sum);
    }
  }
  return part;
}

}  // namespace miq::reference
