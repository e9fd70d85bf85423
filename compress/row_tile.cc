// Plain loops over 64 rows that the compiler turns into vector instructions, compiled for three
// instruction sets; without fused operations all three give the same bits.
#include "miq/compress/row_tile.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "miq/compress/sweep_math.h"

#define MIQ_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))

namespace miq {
namespace {

MIQ_CLONES void range_of(const float* columns, std::int64_t count, float* low, float* high) {
  for (int r = 0; r < kTileRows; ++r) low[r] = high[r] = 0;
  for (std::int64_t k = 0; k < count; ++k) {
    const float* column = columns + k * kTileRows;
    for (int r = 0; r < kTileRows; ++r) {
      low[r] = column[r] < low[r] ? column[r] : low[r];
      high[r] = column[r] > high[r] ? column[r] : high[r];
    }
  }
}

MIQ_CLONES void make_grids(const float* low, const float* high, float clip, float max_code, bool half, float* scale, float* zero) {
  for (int r = 0; r < kTileRows; ++r) scale[r] = grid_scale(low[r], high[r], clip, max_code, half);
  for (int r = 0; r < kTileRows; ++r) zero[r] = grid_zero(low[r], high[r], clip, max_code, scale[r]);
}

MIQ_CLONES void make_coded_grids(const float* low, const float* high, float clip, float max_code, int scale_bits,
                                 const std::uint32_t* exponents, float* scale, float* zero) {
  for (int r = 0; r < kTileRows; ++r) scale[r] = coded_grid_scale(low[r], high[r], clip, max_code, scale_bits, exponents[r]);
  for (int r = 0; r < kTileRows; ++r) zero[r] = coded_grid_zero(low[r], high[r], max_code);
}

void make_grids(const GridSearch& search, const float* low, const float* high, float clip, float* scale, float* zero) {
  if (search.scale_bits) {
    make_coded_grids(low, high, clip, search.max_code, search.scale_bits, search.exponents, scale, zero);
  } else {
    make_grids(low, high, clip, search.max_code, search.half, scale, zero);
  }
}

MIQ_CLONES void widen_range(const float* column, float* low, float* high) {
  for (int r = 0; r < kTileRows; ++r) {
    low[r] = column[r] < low[r] ? column[r] : low[r];
    high[r] = column[r] > high[r] ? column[r] : high[r];
  }
}

MIQ_CLONES void add_errors(const float* column, float weight, const float* scale, const float* zero, float max_code, float* error) {
  for (int r = 0; r < kTileRows; ++r) {
    const float difference = code_value(nearest_code(column[r], scale[r], zero[r], max_code), scale[r], zero[r]) - column[r];
    error[r] += weight * (difference * difference);
  }
}

MIQ_CLONES void keep_better(const float* error, const float* scale, const float* zero, float* best, float* best_scale, float* best_zero) {
  for (int r = 0; r < kTileRows; ++r) {
    const bool better = error[r] < best[r];
    best[r] = better ? error[r] : best[r];
    best_scale[r] = better ? scale[r] : best_scale[r];
    best_zero[r] = better ? zero[r] : best_zero[r];
  }
}

}  // namespace

void load_tile(const float* matrix, std::int64_t cols, std::int64_t first, std::int64_t count, std::span<const std::int64_t> order,
               float* tile) {
  for (std::int64_t k = 0; k < cols; ++k) {
    const float* in = matrix + first * cols + (order.empty() ? k : order[k]);
    float* out = tile + k * kTileRows;
    for (std::int64_t row = 0; row < count; ++row) out[row] = in[row * cols];
    for (std::int64_t row = count; row < kTileRows; ++row) out[row] = 0;
  }
}

MIQ_CLONES bool all_finite(const float* values, std::int64_t count) {
  std::uint32_t largest = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint32_t bits;
    memcpy(&bits, values + i, sizeof bits);
    bits &= 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  return largest < 0x7f800000u;
}

std::vector<std::vector<std::int64_t>> columns_of_groups(std::span<const std::uint16_t> group_of, std::int64_t groups) {
  std::vector<std::vector<std::int64_t>> columns(groups);
  for (std::size_t k = 0; k < group_of.size(); ++k) columns[group_of[k]].push_back(static_cast<std::int64_t>(k));
  return columns;
}

void find_grids(const float* tile, const std::uint8_t* kept, std::span<const std::int64_t> columns, const GridSearch& search,
                std::vector<float>& scratch, float* scale, float* zero) {
  const std::int64_t count = static_cast<std::int64_t>(columns.size());
  scratch.resize(count * kTileRows);
  for (std::int64_t k = 0; k < count; ++k) {
    const float* in = tile + columns[k] * kTileRows;
    float* out = scratch.data() + k * kTileRows;
    if (kept) {
      const std::uint8_t* mask = kept + columns[k] * kTileRows;
      for (int r = 0; r < kTileRows; ++r) out[r] = mask[r] ? in[r] : 0.0f;
    } else {
      std::copy_n(in, kTileRows, out);
    }
  }
  float low[kTileRows], high[kTileRows];
  range_of(scratch.data(), count, low, high);
  if (search.clips.size() <= 1) {
    make_grids(search, low, high, search.clips.empty() ? 1.0f : search.clips[0], scale, zero);
    return;
  }
  float best[kTileRows], error[kTileRows], tried_scale[kTileRows], tried_zero[kTileRows];
  std::fill_n(best, kTileRows, std::numeric_limits<float>::infinity());
  make_grids(search, low, high, search.clips[0], scale, zero);
  const auto try_grids = [&] {
    std::fill_n(error, kTileRows, 0.0f);
    for (std::int64_t k = 0; k < count; ++k) {
      const float weight = search.column_weights ? search.column_weights[columns[k]] : 1.0f;
      add_errors(scratch.data() + k * kTileRows, weight, tried_scale, tried_zero, search.max_code, error);
    }
    keep_better(error, tried_scale, tried_zero, best, scale, zero);
  };
  for (float clip : search.clips) {
    make_grids(search, low, high, clip, tried_scale, tried_zero);
    try_grids();
    if (!tries_both_zeros(search.max_code)) continue;
    for (int r = 0; r < kTileRows; ++r) tried_zero[r] = search.max_code - tried_zero[r];
    try_grids();
  }
}

void find_exponents(const float* tile, std::span<const std::vector<std::int64_t>> columns_of_groups, std::uint32_t* exponents) {
  float widest[kTileRows] = {};
  for (const std::vector<std::int64_t>& columns : columns_of_groups) {
    float low[kTileRows] = {}, high[kTileRows] = {};
    for (std::int64_t k : columns) widen_range(tile + k * kTileRows, low, high);
    for (int r = 0; r < kTileRows; ++r) widest[r] = std::max(widest[r], high[r] - low[r]);
  }
  for (int r = 0; r < kTileRows; ++r) exponents[r] = row_exponent(widest[r]);
}

MIQ_CLONES void round_column(const float* weights, const std::uint8_t* kept, const float* scale, const float* zero, float max_code,
                             float* values, std::uint8_t* codes) {
  float code[kTileRows];
  for (int r = 0; r < kTileRows; ++r) code[r] = nearest_code(weights[r], scale[r], zero[r], max_code);
  for (int r = 0; r < kTileRows; ++r) values[r] = code_value(code[r], scale[r], zero[r]);
  for (int r = 0; r < kTileRows; ++r) codes[r] = static_cast<std::uint8_t>(static_cast<std::int32_t>(code[r]));
  if (kept) {
    for (int r = 0; r < kTileRows; ++r) values[r] = kept[r] ? values[r] : 0.0f;
    for (int r = 0; r < kTileRows; ++r) codes[r] = kept[r] ? codes[r] : std::uint8_t{0};
  }
}

}  // namespace miq
