// The last step of a plan: widths for all groups of all matrices under one budget, by any allocator (methods.h).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "miq/compress/methods.h"

namespace miq {

// The groups of one matrix, in their own order.
struct MatrixItems {
  std::int64_t layer = 0, rows = 0;
  std::string kind;                  // matrix_kind(), for Recipe::overrides
  std::vector<std::int64_t> starts;  // [groups + 1] channels
  std::vector<double> losses;        // [groups * levels] predicted, group-major
  std::vector<double> kept;          // [groups] weights that stay
  std::vector<double> information;   // [groups] mean mutual information within; Allocator::Redundancy
  bool masked = false;               // a bit a weight says what stays
  int scale_bits = 16;               // of each group and row; below 16 they are coded, under an exponent for each row

  std::int64_t groups() const { return static_cast<std::int64_t>(starts.size()) - 1; }
  std::int64_t weights() const { return rows * starts.back(); }
};

// Bits that a matrix takes beside its codes and zero points, at most: scales, mask, group of each channel, width of each group, and what
// streams lose at their ends.
std::int64_t fixed_bits(const MatrixItems& matrix, std::span<const int> levels);

// Widths [matrices][groups]. Under Recipe::target the average over the kept weights is never above it, and below it by less than the
// smallest step that any group could still take; under Recipe::target_bpw the same holds for fixed_bits(), codes and zero points over all
// weights. With Recipe::overrides each of those parts is such a problem of its own in code bits, and the steps are those of the rest,
// which gets what is left. Throws UsageError when the target cannot be reached, naming what can.
std::vector<std::vector<std::uint8_t>> plan_bits(std::span<const MatrixItems> matrices, const Recipe& recipe);

}  // namespace miq
