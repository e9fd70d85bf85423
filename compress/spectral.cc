// Degrees d_i = sum_j A_ij; L = D^-1/2 A D^-1/2, whose spectrum lies in [-1, 1]. Its leading eigenvectors come from subspace iteration
// with a Chebyshev filter: each round finds Ritz values, then damps everything below the smallest wanted one (Zhou and Saad,
// 2007), so a few dozen products L V separate what plain iteration would need hundreds for. The rows of the leading vectors, scaled to
// unit length, are clustered by k-means (k-means++ seeding, a few restarts, the tightest kept).
//
// Products are computed row by row in a fixed order by our own loops rather than a library whose summation order may follow the number of
// threads; so labels are reproducible to the byte.
#include "miq/compress/spectral.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "miq/base/error.h"
#include "miq/compress/kmeans.h"
#include "miq/compress/not_finite.h"
#include "miq/compress/spectral_device.h"
#include "miq/compress/symmetric_eigen.h"

namespace miq {
namespace {

// D^-1/2 A D^-1/2 in float32, row-major.
std::vector<float> normalised_affinity(const at::Tensor& affinity, ThreadPool& pool) {
  const at::Tensor source = affinity.to(at::kFloat).contiguous();
  const std::int64_t n = source.size(0);
  const float* a = source.const_data_ptr<float>();
  std::vector<double> scale(static_cast<std::size_t>(n));
  pool.for_each(n, [&](std::int64_t i) {
    double degree = 0;
    for (std::int64_t j = 0; j < n; ++j) {
      if (!(a[i * n + j] >= 0) || !std::isfinite(a[i * n + j]))
        throw NotFinite("spectral clustering: the affinity of channels " + std::to_string(i) + " and " + std::to_string(j) +
                    " is not a number >= 0");
      degree += a[i * n + j];
    }
    scale[static_cast<std::size_t>(i)] = 1 / std::sqrt(std::max(degree, 1e-9));
  });
  std::vector<float> l(static_cast<std::size_t>(n * n));
  pool.for_each(n, [&](std::int64_t i) {
    for (std::int64_t j = 0; j < n; ++j) l[i * n + j] = static_cast<float>(a[i * n + j] * scale[i] * scale[j]);
  });
  return l;
}

std::vector<std::int32_t> numbered_by_first_use(const std::vector<std::int32_t>& labels) {
  std::vector<std::int32_t> renamed(labels.size()), name(labels.size() + 1, -1);
  std::int32_t next = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    auto& given = name[static_cast<std::size_t>(labels[i])];
    if (given < 0) given = next++;
    renamed[i] = given;
  }
  return renamed;
}

}  // namespace

std::vector<std::int32_t> spectral_clusters(const at::Tensor& affinity, std::int64_t clusters, std::uint64_t seed, ThreadPool& pool,
                                            const ComputeDevice& where) {
  if (!affinity.defined() || affinity.dim() != 2 || affinity.size(0) != affinity.size(1) || (!affinity.device().is_cpu() && !where.used()))
    throw Error("spectral clustering: the affinity must be a square matrix on the CPU");
  if (clusters < 1) throw UsageError("spectral clustering: at least one cluster is needed");
  const std::int64_t n = affinity.size(0);
  std::vector<std::int32_t> labels(static_cast<std::size_t>(n), 0);
  if (where.used() && clusters > 1 && clusters < n) return numbered_by_first_use(clusters_on_device(affinity, clusters, seed, where.device));
  const std::vector<float> l = normalised_affinity(affinity.to(at::kCPU), pool);
  if (clusters == 1 || n <= 1) return labels;
  if (clusters >= n) {
    std::iota(labels.begin(), labels.end(), 0);
    return labels;
  }
  std::vector<double> points = leading_eigenvectors(l, n, clusters, seed, pool);
  pool.for_each(n, [&](std::int64_t i) {
    double* row = points.data() + i * clusters;
    double length = 0;
    for (std::int64_t c = 0; c < clusters; ++c) length += row[c] * row[c];
    length = std::max(std::sqrt(length), 1e-12);
    for (std::int64_t c = 0; c < clusters; ++c) row[c] /= length;
  });
  return numbered_by_first_use(kmeans(points, n, clusters, clusters, seed, pool));
}

}  // namespace miq
