// Agglomerative clustering with average linkage (Sokal and Michener, 1958) of the n channels of an affinity matrix.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace miq {

// From single channels on, the two clusters whose channels share most on average (mean over all pairs of one channel of each) become
// one, until `clusters` are left. Same arguments, labels and errors as spectral_clusters(), but always min(n, clusters) labels. Sizes
// may differ much: outliers stay alone.
std::vector<std::int32_t> hierarchical_clusters(const at::Tensor& affinity, std::int64_t clusters);

}  // namespace miq
