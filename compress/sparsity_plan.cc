// Scores are sorted by counting: a float32 that is not negative orders as its bits do, so its upper bits are a logarithmic bin. Coarse
// bins (16 to the octave) serve the threshold over the model, fine ones (128 to the octave) a block's own; inside the bin that a threshold falls into,
// weights are taken in proportion, so that shares add up exactly.
#include "miq/compress/sparsity_plan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "miq/base/error.h"
#include "miq/compress/not_finite.h"

namespace miq {
namespace {

constexpr int kCoarseShift = 19, kFineShift = 16;
constexpr std::uint32_t kInfinity = 0x7f800000u;

struct Scores {
  const float* weight;
  std::int64_t rows, columns;
  const ChannelGroups& groups;
  std::vector<float> row_factor, column_factor;  // f_r; 1 / [H^-1]_jj by place in the processing order

  std::uint32_t bits(std::int64_t row, std::int64_t step) const {
    const float w = weight[row * columns + groups.order[step]];
    return std::bit_cast<std::uint32_t>(std::abs(row_factor[row] * (w * w * column_factor[step])));
  }
};

Scores make_scores(const at::Tensor& weight, const ChannelGroups& groups, std::span<const double> row_sensitivity,
                   std::span<const double> inverse_diagonal) {
  const std::int64_t n = groups.channels();
  if (weight.dim() != 2 || weight.size(1) != n || weight.scalar_type() != at::kFloat || !weight.is_contiguous() ||
      !weight.device().is_cpu())
    throw Error("sparsity plan: the weight must be contiguous float32 [rows, " + std::to_string(n) + "] on the CPU");
  const std::int64_t rows = weight.size(0);
  if (static_cast<std::int64_t>(inverse_diagonal.size()) != n ||
      (!row_sensitivity.empty() && static_cast<std::int64_t>(row_sensitivity.size()) != rows))
    throw Error("sparsity plan: row sensitivities or the inverse's diagonal do not fit the matrix");
  Scores scores{weight.const_data_ptr<float>(), rows, n, groups, std::vector<float>(static_cast<std::size_t>(rows), 1.0f), {}};
  for (std::size_t r = 0; r < row_sensitivity.size(); ++r) scores.row_factor[r] = static_cast<float>(row_sensitivity[r]);
  for (std::int64_t step = 0; step < n; ++step)
    scores.column_factor.push_back(static_cast<float>(1 / inverse_diagonal[groups.order[step]]));
  return scores;
}

// Counts of the block's scores in bins of their upper bits.
std::vector<std::uint32_t> count_block(const Scores& scores, std::int64_t first, std::int64_t last, int shift) {
  std::vector<std::uint32_t> counts((kInfinity >> shift) + 1, 0);
  for (std::int64_t r = 0; r < scores.rows; ++r) {
    for (std::int64_t step = first; step < last; ++step) {
      const std::uint32_t bits = scores.bits(r, step);
      if (bits >= kInfinity) throw NotFinite("sparsity plan: the score of row " + std::to_string(r) + " is not finite");
      ++counts[bits >> shift];
    }
  }
  return counts;
}

// The clipped, blended shares, moved by one offset so that their weighted mean is s.
std::vector<double> restored(std::vector<double> share, const std::vector<double>& weights, double sparsity) {
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  double low = -1, high = 1;
  for (int round = 0; round < 100; ++round) {
    const double offset = (low + high) / 2;
    double sum = 0;
    for (std::size_t b = 0; b < share.size(); ++b) sum += weights[b] * std::clamp(share[b] + offset, 0.0, 1.0);
    (sum > sparsity * total ? high : low) = offset;
  }
  for (double& s : share) s = std::clamp(s + low, 0.0, 1.0);
  return share;
}

// Whole counts that sum to round(s * total): the floors, and one more for the largest remainders.
std::vector<std::int64_t> whole_counts(const std::vector<double>& share, const std::vector<double>& weights, double sparsity) {
  std::vector<std::int64_t> count(share.size());
  std::vector<double> remainder(share.size());
  std::int64_t sum = 0;
  for (std::size_t b = 0; b < share.size(); ++b) {
    count[b] = static_cast<std::int64_t>(std::floor(share[b] * weights[b]));
    remainder[b] = share[b] * weights[b] - static_cast<double>(count[b]);
    sum += count[b];
  }
  std::vector<std::size_t> order(share.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return remainder[a] > remainder[b]; });
  std::int64_t missing = std::llround(sparsity * std::accumulate(weights.begin(), weights.end(), 0.0)) - sum;
  while (missing != 0) {
    const std::int64_t before = missing;
    for (std::size_t b : order) {
      if (missing > 0 && static_cast<double>(count[b]) < weights[b]) ++count[b], --missing;
      if (missing < 0 && count[b] > 0) --count[b], ++missing;
    }
    if (missing == before) break;
  }
  return count;
}

}  // namespace

ScoreHistogram score_histogram(const at::Tensor& weight, const ChannelGroups& groups, std::span<const double> row_sensitivity,
                               std::span<const double> inverse_diagonal, ThreadPool& pool, std::int64_t block_columns) {
  const Scores scores = make_scores(weight, groups, row_sensitivity, inverse_diagonal);
  const auto bounds = column_blocks(groups, block_columns);
  ScoreHistogram histogram(bounds.size() - 1);
  pool.for_each(static_cast<std::int64_t>(histogram.size()), [&](std::int64_t b) {
    const auto counts = count_block(scores, bounds[b], bounds[b + 1], kCoarseShift);
    const auto used = [](std::uint32_t count) { return count != 0; };
    const auto first = std::find_if(counts.begin(), counts.end(), used);
    const auto last = std::find_if(counts.rbegin(), counts.rend(), used).base();
    if (first < last) histogram[b].counts.assign(first, last);
    histogram[b].first_bin = first < last ? first - counts.begin() : 0;
    histogram[b].weights = scores.rows * (bounds[b + 1] - bounds[b]);
  });
  return histogram;
}

SparsityPlan plan_sparsity(std::span<const ScoreHistogram> matrices, const SparsityOptions& options) {
  if (!(options.sparsity > 0 && options.sparsity < 1)) throw UsageError("sparsity must be between 0 and 1");
  if (!(options.blend >= 0 && options.blend <= 1)) throw UsageError("the blend of even and global sparsity must be between 0 and 1");
  if (!(options.smallest >= 0 && options.smallest <= options.largest && options.largest <= 1))
    throw UsageError("the smallest and largest sparsity of a block must satisfy 0 <= smallest <= largest <= 1");
  static_assert((kInfinity >> kCoarseShift) + 1 == kScoreBins);
  std::vector<double> counts(kScoreBins, 0.0), weights;
  for (const auto& matrix : matrices) {
    for (const auto& block : matrix) {
      for (std::size_t i = 0; i < block.counts.size(); ++i) counts[block.first_bin + i] += block.counts[i];
      weights.push_back(static_cast<double>(block.weights));
    }
  }
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  double below = 0;
  std::size_t bin = 0;
  while (bin + 1 < counts.size() && below + counts[bin] < options.sparsity * total) below += counts[bin++];
  const double part = counts[bin] > 0 ? (options.sparsity * total - below) / counts[bin] : 0;  // of the bin tau falls into

  std::vector<double> share;
  for (const auto& matrix : matrices) {
    for (const auto& block : matrix) {
      double under = 0;
      for (std::size_t i = 0; i < block.counts.size(); ++i) {
        const auto at = static_cast<std::size_t>(block.first_bin) + i;
        under += at < bin ? block.counts[i] : at == bin ? part * block.counts[i] : 0;
      }
      const double v = block.weights > 0 ? under / static_cast<double>(block.weights) : options.sparsity;
      share.push_back(std::clamp(options.sparsity + options.blend * (v - options.sparsity), options.smallest, options.largest));
    }
  }
  const auto pruned = whole_counts(restored(std::move(share), weights, options.sparsity), weights, options.sparsity);
  SparsityPlan plan;
  const auto edge = [](std::size_t b) { return static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(b) << kCoarseShift)); };
  plan.threshold = bin + 1 < counts.size() ? edge(bin) + part * (edge(bin + 1) - edge(bin)) : edge(bin);
  auto next = pruned.begin();
  for (const auto& matrix : matrices) {
    plan.pruned.emplace_back(next, next + static_cast<std::ptrdiff_t>(matrix.size()));
    next += static_cast<std::ptrdiff_t>(matrix.size());
  }
  return plan;
}

std::vector<double> kept_shares(const at::Tensor& weight, const ChannelGroups& groups, std::span<const double> row_sensitivity,
                                std::span<const double> inverse_diagonal, std::span<const std::int64_t> pruned, ThreadPool& pool,
                                std::int64_t block_columns) {
  const Scores scores = make_scores(weight, groups, row_sensitivity, inverse_diagonal);
  const auto bounds = column_blocks(groups, block_columns);
  if (pruned.size() + 1 != bounds.size()) throw Error("sparsity plan: the counts to prune do not fit the blocks of the matrix");
  std::vector<double> kept(static_cast<std::size_t>(scores.columns), 1.0);
  pool.for_each(static_cast<std::int64_t>(pruned.size()), [&](std::int64_t b) {
    const std::int64_t width = bounds[b + 1] - bounds[b];
    if (pruned[b] < 0 || pruned[b] > width * scores.rows) throw Error("sparsity plan: a block is to lose more weights than it has");
    const auto counts = count_block(scores, bounds[b], bounds[b + 1], kFineShift);
    std::int64_t below = 0;
    std::uint32_t bin = 0;
    while (bin + 1 < counts.size() && below + counts[bin] <= pruned[b]) below += counts[bin++];
    const double part = counts[bin] > 0 ? static_cast<double>(pruned[b] - below) / counts[bin] : 0;
    std::vector<std::int64_t> under(static_cast<std::size_t>(width), 0), inside(static_cast<std::size_t>(width), 0);
    for (std::int64_t r = 0; r < scores.rows; ++r) {
      for (std::int64_t c = 0; c < width; ++c) {
        const std::uint32_t its = scores.bits(r, bounds[b] + c) >> kFineShift;
        under[c] += its < bin;
        inside[c] += its == bin;
      }
    }
    for (std::int64_t c = 0; c < width; ++c)
      kept[bounds[b] + c] = 1 - (static_cast<double>(under[c]) + part * static_cast<double>(inside[c])) / static_cast<double>(scores.rows);
  });
  return kept;
}

std::vector<double> kept_shares_of_pattern(const at::Tensor& weight, const ChannelGroups& groups, std::span<const double> inverse_diagonal,
                                           int n, int m, ThreadPool& pool) {
  const Scores scores = make_scores(weight, groups, {}, inverse_diagonal);
  if (n < 0 || m < 1 || n > m || scores.columns % m != 0) throw Error("sparsity plan: the pattern does not fit the matrix");
  std::vector<double> kept(static_cast<std::size_t>(scores.columns), 0.0);
  pool.for_each(scores.columns / m, [&](std::int64_t set) {
    std::vector<std::pair<std::uint32_t, std::int64_t>> row(static_cast<std::size_t>(m));
    for (std::int64_t r = 0; r < scores.rows; ++r) {
      for (std::int64_t i = 0; i < m; ++i) row[static_cast<std::size_t>(i)] = {scores.bits(r, set * m + i), i};
      std::nth_element(row.begin(), row.begin() + n, row.end());
      for (auto stays = row.begin() + n; stays != row.end(); ++stays) kept[static_cast<std::size_t>(set * m + stays->second)] += 1;
    }
  });
  for (double& share : kept) share /= static_cast<double>(scores.rows);
  return kept;
}

}  // namespace miq
