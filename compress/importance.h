// The importance of each input channel of a matrix, as method `enhanced` ranks them: five scores, each its logarithm, standardised
// over the channels, then averaged.
//
//   0  E|x_j|                            mean size of the activation
//   1  E x_j^2                           its energy
//   2  var(x_j) * E x_j^4 / (E x_j^2)^2  variance times kurtosis: how spiky it is
//   3  |W_:j|_2                          size of the weights that read it
//   4  |W_:j|_2^2 / [H^-1]_jj            what removing it costs after the others have compensated (Hassibi and Stork, 1993)
#pragma once

#include <array>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "miq/base/thread_pool.h"
#include "miq/compress/channel_statistics.h"

namespace miq {

inline constexpr int kImportanceScores = 5;
using ImportanceWeights = std::array<double, kImportanceScores>;
inline constexpr ImportanceWeights kEqualImportanceWeights = {1, 1, 1, 1, 1};

// `weight` [rows, n] F32; `inverse_diagonal` [n]: the diagonal of (H + damping)^-1. The weights need not sum to 1 (they are divided by
// their sum). Returns [n]; higher means more important; the mean over the channels is 0.
// Throws UsageError when a weight is negative or not finite or all are 0, Error when sizes disagree.
std::vector<double> channel_importance(const ChannelStatistics& statistics, const at::Tensor& weight,
                                       std::span<const double> inverse_diagonal, const ImportanceWeights& weights, ThreadPool& pool);

}  // namespace miq
