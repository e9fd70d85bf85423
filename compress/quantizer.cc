// Rounding to nearest and the choice of grids over tiles of 64 rows, each tile by one thread. The grid
// search itself is in row_tile.cc, where the solver finds it too.
#include "miq/compress/quantizer.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>

#include "miq/base/error.h"
#include "miq/compress/not_finite.h"
#include "miq/compress/row_tile.h"
#include "miq/compress/sweep_math.h"

namespace miq {
namespace {

constexpr float kPredictionClips[] = {1.0f, 0.9f, 0.8f, 0.7f, 0.6f, 0.5f};
constexpr float kSolvingClips[] = {1.0f, 0.95f, 0.9f, 0.85f, 0.8f, 0.75f, 0.7f, 0.65f, 0.6f, 0.55f, 0.5f, 0.45f, 0.4f, 0.35f};

bool is_width(int bits) { return bits == 2 || bits == 3 || bits == 4 || bits == 6 || bits == 8; }

float max_code_of(int bits) { return static_cast<float>((1 << bits) - 1); }

const float* check_weights(const at::Tensor& weights) {
  if (weights.dim() != 2 || weights.scalar_type() != at::kFloat || !weights.is_contiguous()) {
    throw Error("quantizer: weights must be a contiguous float32 matrix");
  }
  return weights.const_data_ptr<float>();
}

// Calls work(tile number, first row, rows, tile [cols][64]) for every tile.
template <typename Work>
void for_tiles(const at::Tensor& weights, ThreadPool& pool, const Work& work) {
  const float* data = check_weights(weights);
  const std::int64_t rows = weights.size(0), cols = weights.size(1);
  pool.for_each(tile_count(rows), [&](std::int64_t number) {
    const std::int64_t first = number * kTileRows, count = std::min(kTileRows, rows - first);
    if (!all_finite(data + first * cols, count * cols)) throw NotFinite("quantizer: the weights hold NaN or infinity");
    std::vector<float> tile(cols * kTileRows);
    load_tile(data, cols, first, count, {}, tile.data());
    work(number, first, count, tile.data());
  });
}

}  // namespace

std::span<const float> prediction_clips() { return kPredictionClips; }
std::span<const float> solving_clips() { return kSolvingClips; }

ColumnGroups contiguous_groups(std::int64_t cols, std::int64_t group_size, int bits) {
  if (!is_width(bits)) throw UsageError("a width of " + std::to_string(bits) + " bits is not supported: choose 2, 3, 4, 6 or 8");
  if (group_size < 0) throw UsageError("the group size must not be negative");
  if (group_size == 0) group_size = std::max<std::int64_t>(cols, 1);
  const std::int64_t groups = (cols + group_size - 1) / group_size;
  if (groups > 65536)
    throw Error("groups of " + std::to_string(group_size) + " columns make " + std::to_string(groups) +
                " groups; 65536 is the most. Use larger groups");
  ColumnGroups result;
  result.group_of_column.resize(cols);
  for (std::int64_t k = 0; k < cols; ++k) result.group_of_column[k] = static_cast<std::uint16_t>(k / group_size);
  result.bits_of_group.assign(groups, static_cast<std::uint8_t>(bits));
  return result;
}

void check_groups(const ColumnGroups& groups, std::int64_t cols) {
  if (static_cast<std::int64_t>(groups.group_of_column.size()) != cols)
    throw Error("groups are given for " + std::to_string(groups.group_of_column.size()) + " columns of a matrix with " +
                std::to_string(cols));
  std::vector<bool> used(groups.groups());
  for (std::uint16_t group : groups.group_of_column) {
    if (group >= groups.groups())
      throw Error("a column is in group " + std::to_string(group) + ", but there are only " + std::to_string(groups.groups()));
    used[group] = true;
  }
  for (std::int64_t g = 0; g < groups.groups(); ++g) {
    if (!is_width(groups.bits_of_group[g]))
      throw Error("group " + std::to_string(g) + " has " + std::to_string(groups.bits_of_group[g]) +
                  " bits; 2, 3, 4, 6 and 8 are supported");
    if (!used[g]) throw Error("group " + std::to_string(g) + " has no columns");
  }
}

DType choose_scale_dtype(const at::Tensor& weights, const ColumnGroups& groups, std::span<const float> clips, ThreadPool& pool) {
  const float clip = clips.empty() ? 1.0f : *std::min_element(clips.begin(), clips.end());
  const auto columns = columns_of_groups(groups.group_of_column, groups.groups());
  std::atomic<bool> fits{true};
  for_tiles(weights, pool, [&](std::int64_t, std::int64_t, std::int64_t count, const float* tile) {
    std::vector<float> scratch;
    float scale[kTileRows], zero[kTileRows];
    for (std::int64_t g = 0; g < groups.groups(); ++g) {
      const float shrunk[] = {clip}, whole[] = {1.0f};
      GridSearch search{max_code_of(groups.bits_of_group[g]), false, shrunk, nullptr};
      find_grids(tile, nullptr, columns[g], search, scratch, scale, zero);
      for (std::int64_t r = 0; r < count; ++r)
        if (scale[r] < 6.103515625e-5f) fits = false;
      search.clips = whole;
      find_grids(tile, nullptr, columns[g], search, scratch, scale, zero);
      for (std::int64_t r = 0; r < count; ++r)
        if (scale[r] > 65504.0f) fits = false;
    }
  });
  return fits ? DType::F16 : DType::F32;
}

PackedMatrix round_to_nearest(const at::Tensor& weights, const ColumnGroups& groups, std::span<const std::uint8_t> kept,
                              const RoundingOptions& options, ThreadPool& pool) {
  check_weights(weights);
  PackedMatrix result;
  const std::int64_t rows = result.rows = weights.size(0), cols = result.cols = weights.size(1);
  check_groups(groups, cols);
  if (!kept.empty() && static_cast<std::int64_t>(kept.size()) != rows * cols)
    throw Error("quantizer: the mask has not the size of the matrix");
  if (!options.column_weights.empty() && static_cast<std::int64_t>(options.column_weights.size()) != cols)
    throw Error("quantizer: column weights do not fit the matrix");
  result.group_of_column = groups.group_of_column;
  result.bits_of_group = groups.bits_of_group;
  if (options.scale_bits != 0 && (options.scale_bits < kLeastScaleBits || options.scale_bits > kMostScaleBits))
    throw UsageError("coded scales have 4 to 8 bits");
  result.scale_bits = options.scale_bits;
  result.row_exponents.resize(options.scale_bits ? rows : 0);
  result.scale_dtype = !options.scale_bits && options.automatic_scale_dtype ? choose_scale_dtype(weights, groups, options.clips, pool) : DType::F32;
  result.scales.resize(groups.groups() * rows);
  result.zeros.resize(groups.groups() * rows);
  result.codes.resize(rows * cols);
  result.kept.assign(kept.begin(), kept.end());
  const auto columns = columns_of_groups(groups.group_of_column, groups.groups());
  for_tiles(weights, pool, [&](std::int64_t, std::int64_t first, std::int64_t count, const float* tile) {
    std::vector<std::uint8_t> mask, codes(cols * kTileRows);
    if (!kept.empty()) {
      mask.resize(cols * kTileRows);
      for (std::int64_t k = 0; k < cols; ++k)
        for (std::int64_t r = 0; r < count; ++r) mask[k * kTileRows + r] = kept[(first + r) * cols + k];
    }
    std::vector<float> scratch;
    float scale[kTileRows], zero[kTileRows], values[kTileRows];
    std::uint32_t exponents[kTileRows];
    if (options.scale_bits) {
      find_exponents(tile, columns, exponents);
      std::copy_n(exponents, count, result.row_exponents.begin() + first);
    }
    for (std::int64_t g = 0; g < groups.groups(); ++g) {
      const GridSearch search{max_code_of(groups.bits_of_group[g]), result.scale_dtype == DType::F16, options.clips,
                              options.column_weights.empty() ? nullptr : options.column_weights.data(), options.scale_bits, exponents};
      find_grids(tile, mask.empty() ? nullptr : mask.data(), columns[g], search, scratch, scale, zero);
      for (std::int64_t k : columns[g]) {
        round_column(tile + k * kTileRows, mask.empty() ? nullptr : mask.data() + k * kTileRows, scale, zero, search.max_code, values,
                     codes.data() + k * kTileRows);
      }
      for (std::int64_t r = 0; r < count; ++r) {
        result.scales[g * rows + first + r] = scale[r];
        result.zeros[g * rows + first + r] = static_cast<std::uint8_t>(zero[r]);
      }
    }
    store_tile(codes.data(), cols, first, count, {}, result.codes.data());
  });
  return result;
}

at::Tensor decode_matrix(const PackedMatrix& matrix, ThreadPool& pool) {
  at::Tensor values = at::empty({matrix.rows, matrix.cols}, at::kFloat);
  float* out = values.mutable_data_ptr<float>();
  pool.for_each(tile_count(matrix.rows), [&](std::int64_t tile) {
    for (std::int64_t r = tile * kTileRows; r < std::min(matrix.rows, (tile + 1) * kTileRows); ++r) {
      for (std::int64_t k = 0; k < matrix.cols; ++k) {
        const std::int64_t at = r * matrix.cols + k, grid = matrix.group_of_column[k] * matrix.rows + r;
        out[at] = matrix.kept.empty() || matrix.kept[at] ? code_value(matrix.codes[at], matrix.scales[grid], matrix.zeros[grid]) : 0.0f;
      }
    }
  });
  return values;
}

}  // namespace miq
