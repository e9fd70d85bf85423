// The front end of the solver: checks, the way into sweep order and tiles of rows, static grids, and the way
// back. What happens between is an engine's (sweep_cpu.cc, sweep_cuda.cu).
#include "miq/compress/sweep.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <string>

#include "miq/base/error.h"
#include "miq/compress/not_finite.h"
#include "miq/compress/row_tile.h"
#include "miq/compress/sweep_engine.h"

namespace miq {
namespace {

void check_pattern(const InverseFactor& factor, const Pruning& pruning, std::span<const std::int64_t> blocks) {
  if (pruning.n <= 0 || pruning.m <= pruning.n || pruning.m > 64) throw UsageError("an n:m pattern needs 0 < n < m <= 64");
  // Sets of m columns of the matrix must be neighbours in the sweep, and lie in one block each.
  const std::int64_t m = pruning.m;
  for (std::int64_t k = 0; k < factor.size(); ++k) {
    if (factor.order[k] / m != factor.order[k - k % m] / m)
      throw UsageError("an n:m pattern cannot be solved in an order that tears its columns apart; use contiguous groups");
  }
  for (std::size_t b = 0; b + 1 < blocks.size(); ++b) {
    if (blocks[b] % m) throw UsageError("an n:m pattern needs groups and blocks that are multiples of m columns");
  }
}

void check_options(const SweepOptions& options) {
  const Pruning& pruning = options.pruning;
  if (options.scale_bits != 0 && (options.scale_bits < kLeastScaleBits || options.scale_bits > kMostScaleBits))
    throw UsageError("coded scales have 4 to 8 bits");
  if (options.block_columns < 1) throw UsageError("a block needs at least one column");
  if (pruning.kind == Pruning::Kind::Block || pruning.kind == Pruning::Kind::SparseGpt) {
    if (!(pruning.sparsity >= 0 && pruning.sparsity < 1)) throw UsageError("sparsity must be at least 0 and less than 1");
  }
  for (float clip : options.clips) {
    if (!(clip > 0 && clip <= 1)) throw UsageError("clip ratios must be above 0 and at most 1");
  }
}

void check_matrix(const SweepMatrix& matrix, std::int64_t cols) {
  const at::Tensor& weights = matrix.weights;
  if (weights.dim() != 2 || weights.size(1) != cols || weights.scalar_type() != at::kFloat || !weights.is_contiguous()) {
    throw Error("solver: weights must be a contiguous float32 matrix with " + std::to_string(cols) + " columns");
  }
  if (!matrix.kept.empty() && static_cast<std::int64_t>(matrix.kept.size()) != weights.numel())
    throw Error("solver: a given mask does not fit the matrix");
  if (!matrix.row_weights.empty()) {
    if (static_cast<std::int64_t>(matrix.row_weights.size()) != weights.size(0)) throw Error("solver: row weights do not fit the matrix");
    for (float f : matrix.row_weights) {
      if (!(f >= 0 && std::isfinite(f))) throw NotFinite("solver: a row weight is negative or not finite");
    }
  }
}

void plan_pruning(const SweepMatrix& matrix, const Pruning& pruning, SweepJob& job) {
  if (pruning.kind == Pruning::Kind::None) return;
  job.kept.assign(job.tiles * job.cols * kTileRows, 1);
  if (pruning.kind == Pruning::Kind::Given) return;  // fill_tile() takes it over
  if (pruning.kind == Pruning::Kind::PatternNM) {
    job.n = pruning.n;
    job.m = pruning.m;
  } else {
    const std::size_t blocks = job.blocks.size() - 1;
    const bool counts = pruning.kind == Pruning::Kind::Block && !matrix.pruned_of_block.empty();
    if (counts && matrix.pruned_of_block.size() != blocks)
      throw Error("solver: counts of weights to prune are given for " + std::to_string(matrix.pruned_of_block.size()) + " blocks of " +
                  std::to_string(blocks));
    job.prune_ties = pruning.kind == Pruning::Kind::SparseGpt;
    for (std::size_t b = 0; b < blocks; ++b) {
      const std::int64_t elements = job.rows * (job.blocks[b + 1] - job.blocks[b]);
      const auto share = static_cast<std::int64_t>(static_cast<double>(elements) * pruning.sparsity);
      if (job.prune_ties) {
        job.rank_of_block.push_back(std::min(share, elements - 1));
      } else {
        const std::int64_t count = counts ? matrix.pruned_of_block[b] : share;
        if (count < 0 || count > elements)
          throw Error("solver: " + std::to_string(count) + " weights to prune in a block of " + std::to_string(elements));
        job.rank_of_block.push_back(count - 1);
      }
    }
  }
  job.row_weights.assign(job.tiles * kTileRows, 1.0f);
  std::copy(matrix.row_weights.begin(), matrix.row_weights.end(), job.row_weights.begin());
}

// U_jj^-2 over its mean within the group: the weights of the clip search.
std::vector<float> clip_weights(const SweepJob& job, const at::Tensor& diagonal) {
  std::vector<double> weights(job.cols), sums(job.groups), counts(job.groups);
  for (std::int64_t k = 0; k < job.cols; ++k) {
    const double d = diagonal.const_data_ptr<float>()[k];
    weights[k] = 1 / (d * d);
    sums[job.group_of[k]] += weights[k];
    counts[job.group_of[k]] += 1;
  }
  std::vector<float> result(job.cols);
  for (std::int64_t k = 0; k < job.cols; ++k) result[k] = static_cast<float>(weights[k] * counts[job.group_of[k]] / sums[job.group_of[k]]);
  return result;
}

void plan_grids(const SweepMatrix& matrix, const InverseFactor& factor, const at::Tensor& diagonal, const SweepOptions& options, ThreadPool& pool, SweepJob& job) {
  job.groups = matrix.groups.groups();
  if (job.groups == 0) return;
  check_groups(matrix.groups, job.cols);
  job.dynamic = options.timing == GridTiming::Dynamic;
  job.scale_bits = options.scale_bits;
  if (job.scale_bits) job.exponents.resize(job.tiles * kTileRows);
  job.half = !job.scale_bits && options.automatic_scale_dtype && choose_scale_dtype(matrix.weights, matrix.groups, options.clips, pool) == DType::F16;
  for (std::int64_t column : factor.order) job.group_of.push_back(matrix.groups.group_of_column[column]);
  for (std::uint8_t bits : matrix.groups.bits_of_group) job.max_codes.push_back(static_cast<float>((1 << bits) - 1));
  job.clips.assign(options.clips.begin(), options.clips.end());
  if (job.clips.empty()) job.clips.push_back(1.0f);
  if (job.dynamic || job.clips.size() > 1) job.column_weights = clip_weights(job, diagonal);
  job.scales.resize(job.tiles * job.groups * kTileRows);
  job.zeros.resize(job.tiles * job.groups * kTileRows);
  job.codes.resize(job.tiles * job.cols * kTileRows);
}

// Fills the tile's weights, and its grids where they are static.
void fill_tile(const SweepMatrix& matrix, const InverseFactor& factor, SweepJob& job, std::int64_t tile) {
  const std::int64_t first = tile * kTileRows, count = std::min(kTileRows, job.rows - first);
  const float* data = matrix.weights.const_data_ptr<float>();
  if (!all_finite(data + first * job.cols, count * job.cols)) throw NotFinite("solver: the weights hold NaN or infinity");
  float* out = job.weights.data() + tile * job.cols * kTileRows;
  load_tile(data, job.cols, first, count, factor.order, out);
  if (!matrix.kept.empty() && !job.kept.empty()) {
    std::uint8_t* kept = job.kept.data() + tile * job.cols * kTileRows;
    for (std::int64_t k = 0; k < job.cols; ++k) {
      for (std::int64_t row = 0; row < count; ++row) kept[k * kTileRows + row] = matrix.kept[(first + row) * job.cols + factor.order[k]];
    }
  }
  if (job.groups && (job.scale_bits || !job.dynamic)) {
    const auto columns = columns_of_groups(job.group_of, job.groups);
    if (job.scale_bits) find_exponents(out, columns, job.exponents.data() + tile * kTileRows);
    std::vector<float> scratch;
    for (std::int64_t g = 0; !job.dynamic && g < job.groups; ++g) {
      const std::int64_t at = (tile * job.groups + g) * kTileRows;
      const float* weights = job.column_weights.empty() ? nullptr : job.column_weights.data();
      find_grids(out, nullptr, columns[g], {job.max_codes[g], job.half, job.clips, weights, job.scale_bits, job.exponents_of(tile)}, scratch,
                 &job.scales[at], &job.zeros[at]);
    }
  }
  if (factor.dead_columns == DeadColumns::Zero) {
    for (std::int64_t k = 0; k < job.cols; ++k) {
      if (factor.dead[factor.order[k]]) std::fill_n(out + k * kTileRows, kTileRows, 0.0f);
    }
  }
}

SweepResult empty_result(const SweepMatrix& matrix, const SweepJob& job) {
  SweepResult result;
  result.values = at::empty({job.rows, job.cols}, at::kFloat);
  auto& kept = job.groups ? result.packed.kept : result.kept;
  if (!job.kept.empty()) kept.resize(job.rows * job.cols);
  if (job.groups) {
    PackedMatrix& packed = result.packed;
    packed.rows = job.rows;
    packed.cols = job.cols;
    packed.group_of_column = matrix.groups.group_of_column;
    packed.bits_of_group = matrix.groups.bits_of_group;
    packed.scale_dtype = job.half ? DType::F16 : DType::F32;
    packed.scale_bits = job.scale_bits;
    packed.row_exponents.resize(job.scale_bits ? job.rows : 0);
    packed.scales.resize(job.groups * job.rows);
    packed.zeros.resize(job.groups * job.rows);
    packed.codes.resize(job.rows * job.cols);
  }
  return result;
}

void collect_tile(const SweepJob& job, std::span<const std::int64_t> order, std::int64_t tile, SweepResult& result, std::int64_t& pruned) {
  const std::int64_t first = tile * kTileRows, count = std::min(kTileRows, job.rows - first), at = tile * job.cols * kTileRows;
  float* values = result.values.mutable_data_ptr<float>();
  store_tile(&job.weights[at], job.cols, first, count, order, values);
  if (!all_finite(values + first * job.cols, count * job.cols))
    throw NotFinite("solver: a result is not finite; the weights or the calibration are near the limits of float32");
  if (!job.kept.empty()) {
    auto& kept = job.groups ? result.packed.kept : result.kept;
    store_tile(&job.kept[at], job.cols, first, count, order, kept.data());
    pruned = std::count(kept.begin() + first * job.cols, kept.begin() + (first + count) * job.cols, std::uint8_t{0});
  }
  if (job.groups == 0) return;
  for (std::int64_t r = 0; job.scale_bits && r < count; ++r)
    result.packed.row_exponents[first + r] = static_cast<std::uint8_t>(job.exponents[first + r]);
  store_tile(&job.codes[at], job.cols, first, count, order, result.packed.codes.data());
  for (std::int64_t g = 0; g < job.groups; ++g) {
    for (std::int64_t r = 0; r < count; ++r) {
      const std::int64_t from = (tile * job.groups + g) * kTileRows + r, to = g * job.rows + first + r;
      result.packed.scales[to] = job.scales[from];
      result.packed.zeros[to] = static_cast<std::uint8_t>(job.zeros[from]);
    }
  }
}

std::vector<float> transposed(const at::Tensor& upper, ThreadPool& pool) {
  const std::int64_t n = upper.size(0), strip = 64;
  const float* in = upper.const_data_ptr<float>();
  std::vector<float> out(n * n);
  pool.for_each((n + strip - 1) / strip, [&](std::int64_t unit) {
    for (std::int64_t k = 0; k < n; ++k) {
      for (std::int64_t j = unit * strip; j < std::min(n, (unit + 1) * strip); ++j) out[j * n + k] = in[k * n + j];
    }
  });
  return out;
}

// All tiles of all jobs in one list of units.
void for_each_tile(const std::vector<SweepJob>& jobs, ThreadPool& pool,
                   const std::function<void(std::size_t job, std::int64_t tile)>& work) {
  std::vector<std::pair<std::size_t, std::int64_t>> units;
  for (std::size_t i = 0; i < jobs.size(); ++i)
    for (std::int64_t t = 0; t < jobs[i].tiles; ++t) units.emplace_back(i, t);
  pool.for_each(static_cast<std::int64_t>(units.size()), [&](std::int64_t unit) { work(units[unit].first, units[unit].second); });
}

}  // namespace

std::vector<std::int64_t> sweep_blocks(const ColumnGroups& groups, std::span<const std::int64_t> order, GridTiming timing,
                                       std::int64_t block_columns) {
  const auto cols = static_cast<std::int64_t>(order.size());
  std::vector<std::int64_t> blocks{0};
  if (timing == GridTiming::Static || groups.groups() == 0) {
    for (std::int64_t first = block_columns; first < cols; first += block_columns) blocks.push_back(first);
  } else {
    check_groups(groups, cols);
    std::vector<bool> seen(groups.groups());
    for (std::int64_t k = 0; k < cols; ++k) {
      const std::uint16_t group = groups.group_of_column[order[k]];
      if (k > 0 && group == groups.group_of_column[order[k - 1]]) continue;
      if (seen[group]) throw UsageError("dynamic grids need the columns of a group next to each other in the solver's order");
      seen[group] = true;
      if (k - blocks.back() >= block_columns) blocks.push_back(k);
    }
  }
  if (cols > 0) blocks.push_back(cols);
  return blocks;
}

std::vector<SweepResult> sweep_with(const SweepEngine& engine, std::span<const SweepMatrix> matrices, const InverseFactor& factor,
                                    const SweepOptions& options, ThreadPool& pool) {
  check_options(options);
  const std::int64_t cols = factor.size();
  // On a device the engine transposes.
  const std::vector<float> lower = factor.upper.is_cpu() ? transposed(factor.upper, pool) : std::vector<float>();
  const at::Tensor diagonal = factor.upper.diagonal().to(at::kCPU).contiguous();
  std::vector<SweepJob> jobs(matrices.size());
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    const SweepMatrix& matrix = matrices[i];
    SweepJob& job = jobs[i];
    check_matrix(matrix, cols);
    job.rows = matrix.weights.size(0);
    job.cols = cols;
    job.tiles = tile_count(job.rows);
    job.lower = lower.empty() ? nullptr : lower.data();
    job.blocks = sweep_blocks(matrix.groups, factor.order, options.timing, options.block_columns);
    if (options.pruning.kind == Pruning::Kind::PatternNM) check_pattern(factor, options.pruning, job.blocks);
    plan_pruning(matrix, options.pruning, job);
    plan_grids(matrix, factor, diagonal, options, pool, job);
    job.weights.resize(job.tiles * cols * kTileRows);
    job.losses.resize(job.tiles);
  }
  for_each_tile(jobs, pool, [&](std::size_t i, std::int64_t tile) { fill_tile(matrices[i], factor, jobs[i], tile); });

  engine(jobs, pool);

  std::vector<SweepResult> results;
  std::vector<std::vector<std::int64_t>> pruned;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    results.push_back(empty_result(matrices[i], jobs[i]));
    pruned.emplace_back(jobs[i].tiles);
  }
  for_each_tile(jobs, pool,
                [&](std::size_t i, std::int64_t tile) { collect_tile(jobs[i], factor.order, tile, results[i], pruned[i][tile]); });
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    results[i].loss = factor.scale * std::accumulate(jobs[i].losses.begin(), jobs[i].losses.end(), 0.0);
    results[i].pruned = std::accumulate(pruned[i].begin(), pruned[i].end(), std::int64_t{0});
  }
  return results;
}

std::vector<SweepResult> sweep(std::span<const SweepMatrix> matrices, const InverseFactor& factor, const SweepOptions& options,
                               ThreadPool& pool) {
  return sweep_with(sweep_on_cpu, matrices, factor, options, pool);
}

}  // namespace miq
