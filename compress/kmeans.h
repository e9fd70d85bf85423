// k-means with k-means++ seeding (Arthur and Vassilvitskii, 2007); a part of spectral clustering.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "miq/base/thread_pool.h"

namespace miq {

// `points` [n * dimensions] row-major. The best of a few restarts by sum of squared distances. Labels in 0 … clusters-1, not all of which
// need be used. The same at any thread count. REQUIRES n, dimensions, clusters >= 1.
std::vector<std::int32_t> kmeans(std::span<const double> points, std::int64_t n, std::int64_t dimensions, std::int64_t clusters,
                                 std::uint64_t seed, ThreadPool& pool);

}  // namespace miq
