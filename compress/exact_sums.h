// Sums over calibration windows that are the same bits whoever adds which window, and in whatever order.
//
// A floating-point sum depends on its order only where an addition is rounded. So what one window gives to a sum, its part, is first rounded to so few
// bits, by a rule that looks at this part alone, that the additions of parts in float64 are exact:
//
//   a number             to 24 bits
//   entry (i, j) of the matrix of second moments, sum_t x_ti x_tj
//                        to a multiple of s_i s_j, where s_j is a power of two, s_j^2 in (2^-26, 2^-24] times the part's own energy sum_t x_tj^2; in a part
//                        of fewer than 32 tokens, as an expert may have, of at least 2^-8 of its channels' mean (by chance one may be nearly silent)
//
// |entry| <= sqrt(energy_i energy_j), so an entry loses 2^-25 of that at most, about what rounding it to float32 does. Sums of entries are exact while no
// channel's energy over all parts is above 2^27 times that in the part where it is least (silent parts do not count); sums of numbers while the sum is
// below 2^29 times the least. Beyond, additions are rounded at 2^-53 as always: the sum is as good, but its last bit may depend on the order. What is
// read of a sum has 24 bits, so one such sum in about 2^28 differs where it is read.
#pragma once

#include <ATen/core/Tensor.h>

#include <bit>
#include <cstdint>
#include <vector>

#include "miq/base/ranks.h"

namespace miq {

// To 24 bits, ties away from zero.
inline double to_24_bits(double value) {
  const auto bits = std::bit_cast<std::uint64_t>(value);
  return std::bit_cast<double>((bits + (std::uint64_t{1} << 28)) & ~((std::uint64_t{1} << 29) - 1));
}

// Energies of a part of so many tokens, as its grid takes them.
constexpr std::int64_t kFewTokens = 32;
void raise_small_energies(std::vector<double>& energies, std::int64_t tokens);

// s_j of a channel's energy in a part.
inline float grid_step(float energy) { return std::bit_cast<float>((((std::bit_cast<std::uint32_t>(energy) >> 23) + 1) / 2 + 51) << 23); }
// The same of [n] float32, wherever it lies.
at::Tensor grid_steps(const at::Tensor& energies);

// sum[j] += part[j] as a multiple of row_step * steps[j], for j below count.
void add_on_grid(const float* part, float row_step, const float* steps, std::int64_t count, double* sum);

// A symmetric matrix [n, n] of float64 sums. Kept on and above the diagonal in panels of `edge` rows, each from its first row's column on: about half of
// the matrix.
class MomentSum {
 public:
  struct Panel {
    std::int64_t first;  // row and column of its first entry
    at::Tensor values;   // [rows, n - first] float64, where the sum lies
  };

  // A multiple of 48 (the kernels' blocks), a function of n alone.
  static std::int64_t edge(std::int64_t n) { return n <= 256 ? 48 : n <= 4096 ? 192 : 480; }
  static std::uint64_t bytes(std::int64_t n);

  MomentSum(std::int64_t n, at::Device device);

  std::int64_t size() const { return n_; }
  std::vector<Panel>& panels() { return panels_; }
  const std::vector<Panel>& panels() const { return panels_; }
  // In memory: where entry (row, column) lies, for a column not before the panel's first. Entries of a row follow each other.
  double* entry(std::int64_t row, std::int64_t column) {
    Panel& panel = panels_[static_cast<std::size_t>(row / edge_)];
    return panel.values.mutable_data_ptr<double>() + (row - panel.first) * (n_ - panel.first) + (column - panel.first);
  }
  // Adds a panel's part [rows, n - first] float32; steps [n] float64. By LibTorch's operations, wherever they lie.
  void add_panel(Panel& panel, const at::Tensor& part, const at::Tensor& steps);

  // Adds those of the other processes, in the rank `to` or in all; elsewhere it is unusable afterwards.
  void sum_over(Ranks& ranks, int to = Ranks::kAll);

  // [n, n] float32, both triangles: every sum divided by `count`.
  at::Tensor mean(double count) const;

 private:
  std::int64_t n_, edge_;
  std::vector<Panel> panels_;
};

}  // namespace miq
