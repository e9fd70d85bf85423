// Internal to the solver: rows in tiles of 64, a tile as [column][row], so that the loops over a
// column's rows run in vector registers and one tile's block of columns fits the cache.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "miq/compress/sweep_math.h"

namespace miq {

constexpr std::int64_t tile_count(std::int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }

// Rows [first, first + count) of a row-major [*, cols] matrix into `tile` [cols][64]; tile column k is
// matrix column order[k] (an empty order: k). Rows past `count` become zero.
void load_tile(const float* matrix, std::int64_t cols, std::int64_t first, std::int64_t count, std::span<const std::int64_t> order,
               float* tile);

bool all_finite(const float* values, std::int64_t count);

// The inverse of load_tile, for any element size.
template <typename T>
void store_tile(const T* tile, std::int64_t cols, std::int64_t first, std::int64_t count, std::span<const std::int64_t> order, T* matrix) {
  for (std::int64_t row = 0; row < count; ++row) {
    T* out = matrix + (first + row) * cols;
    for (std::int64_t k = 0; k < cols; ++k) out[order.empty() ? k : order[k]] = tile[k * kTileRows + row];
  }
}

// Column positions of each group, rising.
std::vector<std::vector<std::int64_t>> columns_of_groups(std::span<const std::uint16_t> group_of, std::int64_t groups);

// Grids of the 64 rows for the columns `columns` of a tile: scale [64], zero [64]. `kept` [cols][64] or null:
// weights that are 0 there count as zero. `column_weights` by tile column, or null. `scratch` grows as needed.
struct GridSearch {
  float max_code = 15;
  bool half = true;
  std::span<const float> clips;
  const float* column_weights = nullptr;
  int scale_bits = 0;                         // coded scales (formats/scale_code.h); 0: by `half`
  const std::uint32_t* exponents = nullptr;   // [64] of the rows, where coded
};
void find_grids(const float* tile, const std::uint8_t* kept, std::span<const std::int64_t> columns, const GridSearch& search,
                std::vector<float>& scratch, float* scale, float* zero);

// Exponents [64] of the rows for coded scales, from the widest range that a group has in each.
void find_exponents(const float* tile, std::span<const std::vector<std::int64_t>> columns_of_groups, std::uint32_t* exponents);

// Codes [64] and values [64] of one column of weights; where kept (may be null) is 0 the value is 0 and the code 0.
void round_column(const float* weights, const std::uint8_t* kept, const float* scale, const float* zero, float max_code, float* values,
                  std::uint8_t* codes);

}  // namespace miq
