// Spectral clustering (Ng, Jordan and Weiss, 2001) of the n channels of an affinity matrix.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "miq/base/thread_pool.h"
#include "miq/compress/compute_device.h"

namespace miq {

// `affinity` [n, n] F32 or F64, symmetric, not negative. Returns a label in 0 … k-1 for each channel, k <= clusters,
// every label used, numbered by the first channel that has it. The same bytes for the same input and seed at any thread count.
// Throws Error on another shape or values that are negative or not finite; UsageError when clusters < 1.
// On a device: the same steps by LibTorch's operations, so other roundings; the affinity lies anywhere.
std::vector<std::int32_t> spectral_clusters(const at::Tensor& affinity, std::int64_t clusters, std::uint64_t seed, ThreadPool& pool,
                                            const ComputeDevice& where = {});

}  // namespace miq
