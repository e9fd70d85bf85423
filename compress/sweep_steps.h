// Internal to the solver: the sweep in steps that a device does for all rows at once, as functions of one row, one tile or one thread. cuda/sweep.cu
// calls them from kernels; tests call them in loops. Every weight sees the operations of sweep_cpu.cc in the same order, so codes and masks are
// the CPU's, to the bit. C++17, because nvcc compiles it.
//
// Thresholds are found by four passes of counting the bytes of the saliencies, highest byte first. The update of the columns after a block is a
// product in tiles of 64 rows and 64 columns, by 256 threads with 4 x 4 sums each.
#pragma once

#include <cstdint>

#include "miq/compress/sweep_math.h"
#include "miq/compress/sweep_view.h"

namespace miq {

constexpr int kSweepRows = static_cast<int>(kTileRows);

MIQ_HOST_DEVICE std::int64_t weight_place(const SweepView& v, std::int64_t tile, std::int64_t column, int row) {
  return (tile * v.cols + column) * kSweepRows + row;
}
MIQ_HOST_DEVICE std::int64_t score_place(const SweepView& v, std::int64_t tile, std::int64_t i, int row) {
  return (tile * v.stride + i) * kSweepRows + row;
}
MIQ_HOST_DEVICE float diagonal_of(const SweepView& v, std::int64_t column) { return v.lower[column * v.cols + column]; }
MIQ_HOST_DEVICE bool is_row(const SweepView& v, std::int64_t tile, int row) { return tile * kSweepRows + row < v.rows; }
MIQ_HOST_DEVICE bool searches(const SweepView& v, std::int64_t block) { return v.rank_of_block && v.rank_of_block[block] >= 0; }
MIQ_HOST_DEVICE int job_of_tile(const SweepLaunch& launch, std::int64_t tile) {
  int job = 0;
  while (tile >= launch.first_tile[job + 1]) ++job;
  return job;
}

// ---- thresholds -------------------------------------------------------------------------------------

MIQ_HOST_DEVICE void score_weight(const SweepView& v, std::int64_t tile, std::int64_t first, std::int64_t i, int row) {
  v.scores[score_place(v, tile, i, row)] =
      saliency(v.weights[weight_place(v, tile, first + i, row)], diagonal_of(v, first + i), v.row_weights[tile * kSweepRows + row]);
}

// The byte at `shift` of a score whose higher bytes are those of the prefix; else -1.
MIQ_HOST_DEVICE int byte_of_score(float score, std::uint32_t prefix, int shift) {
  const std::uint32_t bits = float_bits(score) & 0x7fffffffu;
  if (shift < 24 && (bits >> (shift + 8)) != (prefix >> (shift + 8))) return -1;
  return static_cast<int>((bits >> shift) & 255u);
}

// Extends the prefix by the byte in which the score of the rank lies; clears the counts.
MIQ_HOST_DEVICE void pick_byte(const SweepView& v, std::int64_t block, int shift) {
  const std::int64_t rank = v.rank_of_block[block];
  SweepThreshold found = *v.threshold;
  if (shift == 24) found = SweepThreshold{0, 0, 0};
  std::uint32_t byte = 0;
  while (byte < 255 && found.below + v.counts[byte] <= rank) found.below += v.counts[byte++];
  found.prefix |= byte << shift;
  *v.threshold = found;
  for (int i = 0; i < 256; ++i) v.counts[i] = 0;
}

MIQ_HOST_DEVICE float threshold_of(const SweepView& v) { return float_of_bits(v.threshold->prefix); }

MIQ_HOST_DEVICE std::int64_t ties_of_row(const SweepView& v, std::int64_t tile, std::int64_t width, int row) {
  if (!is_row(v, tile, row)) return 0;
  const float threshold = threshold_of(v);
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < width; ++i) count += v.scores[score_place(v, tile, i, row)] == threshold;
  return count;
}

// Of the scores at the threshold as many go as the rank says, those of the first tiles.
MIQ_HOST_DEVICE void share_ties(const SweepView& v, std::int64_t tiles, std::int64_t block) {
  std::int64_t left = v.rank_of_block[block] + 1 - v.threshold->below;
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    v.quota[tile] = v.ties[tile] < left ? v.ties[tile] : left;
    left -= v.quota[tile];
  }
}

MIQ_HOST_DEVICE void apply_threshold(const SweepView& v, std::int64_t tile, std::int64_t first, std::int64_t width, int row) {
  const float threshold = threshold_of(v);
  for (std::int64_t i = 0; i < width; ++i)
    v.kept[weight_place(v, tile, first + i, row)] = v.scores[score_place(v, tile, i, row)] <= threshold ? 0 : 1;
}

// After apply_threshold() in all rows, once a tile: equal scores beyond the tile's quota stay, by column and row.
MIQ_HOST_DEVICE void keep_ties(const SweepView& v, std::int64_t tile, std::int64_t first, std::int64_t width) {
  if (v.prune_ties || v.quota[tile] == v.ties[tile]) return;
  const float threshold = threshold_of(v);
  std::int64_t ties = 0;
  for (std::int64_t i = 0; i < width; ++i) {
    for (int row = 0; row < kSweepRows && is_row(v, tile, row); ++row) {
      if (v.scores[score_place(v, tile, i, row)] == threshold && ++ties > v.quota[tile]) v.kept[weight_place(v, tile, first + i, row)] = 1;
    }
  }
}

// ---- one block --------------------------------------------------------------------------------------

// Subtracts from a weight the errors begin … end-1 of its row (counted from the block's first column).
MIQ_HOST_DEVICE void bring_up(const SweepView& v, std::int64_t tile, std::int64_t first, std::int64_t column, std::int64_t begin,
                              std::int64_t end, const float* errors, int row) {
  const std::int64_t at = weight_place(v, tile, column, row);
  const float* factors = v.lower + column * v.cols + first;
  float w = v.weights[at];
  for (std::int64_t k = begin; k < end; ++k) w -= errors[k * kSweepRows + row] * factors[k];
  v.weights[at] = w;
}

// Prunes the n least salient of columns begin … end-1 in this row.
MIQ_HOST_DEVICE void prune_pattern(const SweepView& v, std::int64_t tile, std::int64_t begin, std::int64_t end, int row) {
  const std::int64_t width = end - begin, count = width < v.m ? v.n * width / v.m : v.n;
  const float f = v.row_weights[tile * kSweepRows + row];
  for (std::int64_t taken = 0; taken < count; ++taken) {
    std::int64_t least = -1;
    float least_score = 0;
    for (std::int64_t k = begin; k < end; ++k) {
      if (!v.kept[weight_place(v, tile, k, row)]) continue;
      const float score = saliency(v.weights[weight_place(v, tile, k, row)], diagonal_of(v, k), f);
      if (least < 0 || score < least_score) {
        least = k;
        least_score = score;
      }
    }
    v.kept[weight_place(v, tile, least, row)] = 0;
  }
}

MIQ_HOST_DEVICE float kept_weight(const SweepView& v, std::int64_t tile, std::int64_t column, int row) {
  const std::int64_t at = weight_place(v, tile, column, row);
  return v.kept && !v.kept[at] ? 0.0f : v.weights[at];
}

// The grid of this row for columns begin … end-1: find_grids() of row_tile.cc.
MIQ_HOST_DEVICE void find_grid(const SweepView& v, std::int64_t tile, std::int64_t begin, std::int64_t end, std::int64_t group, int row) {
  float low = 0, high = 0;
  for (std::int64_t k = begin; k < end; ++k) {
    const float w = kept_weight(v, tile, k, row);
    low = w < low ? w : low;
    high = w > high ? w : high;
  }
  const float max_code = v.max_codes[group];
  const std::uint32_t exponent = v.scale_bits ? v.exponents[tile * kSweepRows + row] : 0;
  const int sides = tries_both_zeros(max_code) ? 2 : 1;
  float best_scale = 0, best_zero = 0, best = float_of_bits(0x7f800000u);  // infinity
  for (std::int64_t c = 0; c < v.clips; ++c) {
    const float clip = v.clip_ratios[c];
    const float scale = v.scale_bits ? coded_grid_scale(low, high, clip, max_code, v.scale_bits, exponent)
                                     : grid_scale(low, high, clip, max_code, v.half);
    float zero = v.scale_bits ? coded_grid_zero(low, high, max_code) : grid_zero(low, high, clip, max_code, scale);
    if (c == 0) {
      best_scale = scale;
      best_zero = zero;
    }
    for (int side = 0; side < sides && v.clips > 1; ++side, zero = max_code - zero) {
      float error = 0;
      for (std::int64_t k = begin; k < end; ++k) {
        const float w = kept_weight(v, tile, k, row);
        const float difference = code_value(nearest_code(w, scale, zero, max_code), scale, zero) - w;
        error += v.column_weights[k] * (difference * difference);
      }
      if (error < best) {
        best = error;
        best_scale = scale;
        best_zero = zero;
      }
    }
  }
  v.scales[(tile * v.groups + group) * kSweepRows + row] = best_scale;
  v.zeros[(tile * v.groups + group) * kSweepRows + row] = best_zero;
}

// One row of a block. `errors` [width][64]: this row's are written and read; `copy`: another place for them, or null. Rows do not depend on
// each other. A column was last brought up at the start of its n:m set or of its group, whichever is later.
MIQ_HOST_DEVICE void sweep_row(const SweepView& v, std::int64_t tile, std::int64_t first, std::int64_t last, int row, float* errors, float* copy) {
  double loss = 0;
  for (std::int64_t i = 0; i < last - first; ++i) {
    const std::int64_t column = first + i;
    const std::int64_t set_start = v.m ? i - i % v.m : 0;
    if (v.m && i == set_start) {
      const std::int64_t end = column + v.m < last ? column + v.m : last;
      for (std::int64_t k = column; k < end; ++k) {
        const std::int64_t start = v.dynamic ? v.group_start[k] - first : 0;
        bring_up(v, tile, first, k, start < i ? start : 0, i, errors, row);
      }
      prune_pattern(v, tile, column, end, row);
    }
    const std::int64_t group_start = v.dynamic ? v.group_start[column] - first : 0;
    if (v.dynamic && i == group_start) {
      std::int64_t end = column;
      for (; end < last && v.group_start[end] == column; ++end) {
        const std::int64_t set = v.m ? (end - first) - (end - first) % v.m : 0;
        bring_up(v, tile, first, end, set <= i ? set : 0, i, errors, row);
      }
      find_grid(v, tile, column, end, v.group_of[column], row);
    }
    bring_up(v, tile, first, column, set_start > group_start ? set_start : group_start, i, errors, row);

    const std::int64_t at = weight_place(v, tile, column, row);
    const bool kept = !v.kept || v.kept[at];
    const float w = v.weights[at];
    float value = kept ? w : 0.0f;
    if (v.groups) {
      const std::int64_t group = v.group_of[column], grid = (tile * v.groups + group) * kSweepRows + row;
      const float code = nearest_code(w, v.scales[grid], v.zeros[grid], v.max_codes[group]);
      value = kept ? code_value(code, v.scales[grid], v.zeros[grid]) : 0.0f;
      v.codes[at] = kept ? static_cast<std::uint8_t>(code) : std::uint8_t{0};
    }
    const float error = (w - value) / diagonal_of(v, column);
    errors[i * kSweepRows + row] = error;
    if (copy) copy[i * kSweepRows + row] = error;
    loss += static_cast<double>(error) * error;
    v.weights[at] = value;
  }
  v.losses[tile * kSweepRows + row] += loss;
}

// ---- the columns after the block --------------------------------------------------------------------

constexpr int kRestThreads = 256, kRestDepth = 16, kRestColumns = 64;
struct RestTile {  // shared by the threads of a tile
  float errors[kRestDepth][kSweepRows];
  float factors[kRestDepth][kRestColumns + 1];
};

// Steps k … k+kRestDepth-1 of the product, for the columns from `begin` on.
MIQ_HOST_DEVICE void load_rest(const SweepView& v, std::int64_t tile, std::int64_t first, std::int64_t width, std::int64_t begin, std::int64_t k,
                               int thread, RestTile& shared) {
  for (int i = thread; i < kRestDepth * kSweepRows; i += kRestThreads) {
    const int depth = i / kSweepRows, row = i % kSweepRows;
    shared.errors[depth][row] = k + depth < width ? v.errors[score_place(v, tile, k + depth, row)] : 0.0f;
  }
  for (int i = thread; i < kRestDepth * kRestColumns; i += kRestThreads) {
    const int depth = i % kRestDepth, column = i / kRestDepth;
    shared.factors[depth][column] = k + depth < width && begin + column < v.cols ? v.lower[(begin + column) * v.cols + first + k + depth] : 0.0f;
  }
}

MIQ_HOST_DEVICE void add_rest(int thread, int depths, const RestTile& shared, float (&sums)[4][4]) {
  const int x = thread % 16, y = thread / 16;
  for (int depth = 0; depth < depths; ++depth) {
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j) sums[i][j] += shared.errors[depth][x + 16 * i] * shared.factors[depth][y + 16 * j];
  }
}

MIQ_HOST_DEVICE void subtract_rest(const SweepView& v, std::int64_t tile, std::int64_t begin, int thread, const float (&sums)[4][4]) {
  const int x = thread % 16, y = thread / 16;
  for (int j = 0; j < 4; ++j) {
    const std::int64_t column = begin + y + 16 * j;
    if (column >= v.cols) continue;
    for (int i = 0; i < 4; ++i) v.weights[weight_place(v, tile, column, x + 16 * i)] -= sums[i][j];
  }
}

// ---- all blocks -------------------------------------------------------------------------------------

// `steps` queues one step for all tiles; each sees what those before it wrote.
template <typename Steps>
void run_sweep(const SweepLaunch& launch, const std::int64_t* blocks, std::int64_t count, Steps& steps) {
  for (std::int64_t b = 0; b < count; ++b) {
    const std::int64_t first = blocks[b], last = blocks[b + 1];
    if (launch.thresholds) {
      steps.score(b, first, last - first);
      for (int shift = 24; shift >= 0; shift -= 8) {
        steps.count(b, last - first, shift);
        steps.pick(b, shift);
      }
      steps.ties(b, last - first);
      steps.share(b);
      steps.apply(b, first, last - first);
    }
    steps.sweep(first, last);
    if (last < launch.views[0].cols) steps.rest(first, last);
  }
}

}  // namespace miq
