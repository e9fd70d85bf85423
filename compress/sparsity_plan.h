// How many weights each block of columns loses when zeros are spread over the whole model instead of evenly.
//
//   score of a weight   f_r w_rj^2 / [H^-1]_jj     f_r: row sensitivity, as in predicted_loss.h
//   tau                 the s-quantile of the scores over the model
//   v                   share of a block's weights below tau
//   block sparsity      clip(s + blend (v - s), 0.1, 0.9), then all shifted alike to restore the mean s exactly
//
// Two walks over the matrices, so that nothing of a matrix need stay in memory: the first collects counts of scores, the second
// turns each block's sparsity into the kept share of every column.
//
//   for each matrix: histograms.push_back(score_histogram(matrix, …));
//   SparsityPlan plan = plan_sparsity(histograms, s);
//   for each matrix m: kept = kept_shares(matrix, …, plan.pruned[m]);
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "miq/base/thread_pool.h"
#include "miq/compress/grouping.h"

namespace miq {

inline constexpr std::int64_t kScoreBins = (0x7F800000 >> 19) + 1;

// Counts of scores by size, for each block of columns: bins are the upper bits of the score as a float32 (16 to the octave).
struct BlockScores {
  std::int64_t weights = 0;
  std::int64_t first_bin = 0;           // counts[i] belongs to bin first_bin + i
  std::vector<std::uint32_t> counts;
};
using ScoreHistogram = std::vector<BlockScores>;  // one entry a block of column_blocks(groups, block_columns)

// `weight` [rows, columns] F32 in original column order; `inverse_diagonal` [columns] by original channel number; `row_sensitivity`
// [rows], or empty for all 1. Throws Error when sizes disagree or a score is not finite.
ScoreHistogram score_histogram(const at::Tensor& weight, const ChannelGroups& groups, std::span<const double> row_sensitivity,
                               std::span<const double> inverse_diagonal, ThreadPool& pool, std::int64_t block_columns = 128);

struct SparsityOptions {
  double sparsity = 0.5;               // share of zeros over all matrices, 0 < s < 1
  double blend = 0.5;                  // 0: even; 1: all the way to the global threshold
  double smallest = 0.1, largest = 0.9;
};

struct SparsityPlan {
  double threshold = 0;  // tau
  // [matrix][block]: weights to prune. They sum to round(s * all weights) exactly.
  std::vector<std::vector<std::int64_t>> pruned;
};

// Throws UsageError unless 0 < sparsity < 1, 0 <= blend <= 1 and 0 <= smallest <= largest <= 1.
SparsityPlan plan_sparsity(std::span<const ScoreHistogram> matrices, const SparsityOptions& options);

// Kept share k_j of each column, by place in the processing order, when each block loses its `pruned` lowest scores. Over a
// block they sum to (weights - pruned) / rows, up to rounding in double. (The solver's masks come out slightly different
// inside a block, since they look at updated weights; the count of the block is the same.)
std::vector<double> kept_shares(const at::Tensor& weight, const ChannelGroups& groups, std::span<const double> row_sensitivity,
                                std::span<const double> inverse_diagonal, std::span<const std::int64_t> pruned, ThreadPool& pool,
                                std::int64_t block_columns = 128);

// The same where every `m` consecutive stored channels of a row lose their `n` lowest scores w^2 / [H^-1]_jj (equal ones: the first);
// each of these sets must lie in the processing order in one piece, in any order inside.
std::vector<double> kept_shares_of_pattern(const at::Tensor& weight, const ChannelGroups& groups, std::span<const double> inverse_diagonal,
                                           int n, int m, ThreadPool& pool);

}  // namespace miq
