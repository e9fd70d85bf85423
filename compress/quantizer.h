// The uniform asymmetric grid, one for each (output row, group of input channels), and rounding to
// nearest on it. Arithmetic in compress/sweep_math.h; the solver (sweep.h) uses the same grids.
//
// From SparseGPT's quant.py: low = min(w, 0), high = max(w, 0) over the row's weights in the group (both
// zero: -1, 1), scale = clip * (high - low) / (2^bits - 1), zero = round(-clip * low / scale), all rounding
// half to even. `clip` is 1, or whichever of a list of ratios gives the least weighted squared error (the
// first of equals); with several ratios and 2 bits the zero point 3 - zero is tried beside each. Scales are rounded to
// the stored type before zeros and codes are chosen. Coded scales are rounded up, so that no weight is clipped that need
// not be, and zero = round(-low / (high - low) * (2^bits - 1)).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "miq/base/thread_pool.h"
#include "miq/formats/packed_matrix.h"

namespace miq {

// How the columns of a matrix share grids. Column order is the matrix's own.
struct ColumnGroups {
  std::vector<std::uint16_t> group_of_column;  // [cols], values < groups; every group has a column
  std::vector<std::uint8_t> bits_of_group;     // [groups], each 2, 3, 4, 6 or 8
  std::int64_t groups() const { return static_cast<std::int64_t>(bits_of_group.size()); }
};

// One group of all columns, or runs of `group_size` columns (the last may be shorter; 0: one group).
// Throws UsageError on an odd width or a negative size, Error when there would be more than 65536 groups.
ColumnGroups contiguous_groups(std::int64_t cols, std::int64_t group_size, int bits);

// Throws Error when sizes, values or bits break the rules above.
void check_groups(const ColumnGroups& groups, std::int64_t cols);

// The clip ratios of mi.md: {1, 0.9 … 0.5} to predict (step 4), {1, 0.95 … 0.35} to solve (step 7).
std::span<const float> prediction_clips();
std::span<const float> solving_clips();

// F16, unless a scale of these weights [rows, cols] (float32) with these groups and the smallest of
// `clips` would be no normal F16 number: then F32.
DType choose_scale_dtype(const at::Tensor& weights, const ColumnGroups& groups, std::span<const float> clips, ThreadPool& pool);

struct RoundingOptions {
  std::span<const float> clips;           // empty: {1}
  std::span<const float> column_weights;  // [cols] weights of the squared errors in the clip search; empty: 1
  bool automatic_scale_dtype = true;      // choose_scale_dtype(); false: F32 always
  int scale_bits = 0;                     // 4 to 8: coded scales (formats/scale_code.h); 0: none
};

// Every weight to the nearest point of its grid. `weights` [rows, cols] float32, finite (throws Error
// otherwise). `kept` [rows * cols] or empty: weights that are 0 there become exactly zero, take no code and
// (being zero) do not stretch their grid.
PackedMatrix round_to_nearest(const at::Tensor& weights, const ColumnGroups& groups, std::span<const std::uint8_t> kept,
                              const RoundingOptions& options, ThreadPool& pool);

// [rows, cols] float32: scale * (code - zero), as pack() followed by decode() gives it.
at::Tensor decode_matrix(const PackedMatrix& matrix, ThreadPool& pool);

}  // namespace miq
