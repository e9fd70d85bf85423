// The steps of symmetric_eigen.cc and kmeans.cc as products of matrices. A block is made orthonormal by the Cholesky factor of its Gram matrix, twice
// (Yamamoto and others, 2015), in float64; where the block has lost its rank, by Householder's reflections. Products with the matrix and the filter are
// float32. Nothing depends on the order in which threads finish: sums are products with matrices of zeros and ones.
#include "miq/compress/spectral_device.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/argmin.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>

#include "miq/compress/not_finite.h"
#include "miq/compress/rng.h"

namespace miq {
namespace {

// Those of symmetric_eigen.cc and kmeans.cc.
constexpr std::int64_t kGuardVectors = 8;
constexpr int kPlainRounds = 3, kFilterRounds = 3, kFilterDegree = 10;
constexpr int kRestarts = 3, kRounds = 30;

at::Tensor orthonormal(at::Tensor block) {
  for (int twice = 0; twice < 2; ++twice) {
    block = block / block.norm(2, 0, true).clamp_min(1e-30);
    const auto [lower, problem] = at::linalg_cholesky_ex(at::mm(block.t(), block));
    if (problem.item<std::int32_t>() != 0) return std::get<0>(at::linalg_qr(block));
    block = at::linalg_solve_triangular(lower.t(), block, true, false);
  }
  return block;
}

// Turns an orthonormal block into Ritz vectors; values falling, on the CPU.
at::Tensor rayleigh_ritz(const at::Tensor& matrix, at::Tensor& block) {
  const at::Tensor small = at::mm(block.t(), at::mm(matrix, block.to(at::kFloat)).to(at::kDouble)).to(at::kCPU);
  const auto [values, rotation] = at::linalg_eigh((small + small.t()) / 2);
  block = at::mm(block, rotation.flip({1}).to(block.device()));
  return values.flip({0}).contiguous();
}

// The Chebyshev polynomial that stays within 1 on [low, high] and grows fastest above; scaled at `top` against overflow.
at::Tensor filtered(const at::Tensor& matrix, const at::Tensor& block, double low, double high, double top) {
  const double half = (high - low) / 2, centre = (high + low) / 2;
  double sigma = half / (top - centre);
  const double first = sigma;
  at::Tensor previous = block.to(at::kFloat);
  at::Tensor current = at::addmm(previous, matrix, previous, -centre * sigma / half, sigma / half);
  for (int degree = 2; degree <= kFilterDegree; ++degree) {
    const double sigma_next = 1 / (2 / first - sigma);
    at::Tensor next = at::addmm(current, matrix, current, -2 * centre * sigma_next / half, 2 * sigma_next / half);
    next.sub_(previous, sigma * sigma_next);
    previous = current;
    current = next;
    sigma = sigma_next;
  }
  return current.to(at::kDouble);
}

// k-means++: every next centre is a point drawn with probability proportional to its squared distance from the nearest one.
at::Tensor seed_centres(const at::Tensor& points, std::int64_t clusters, SplitMix64& random) {
  const std::int64_t n = points.size(0);
  at::Tensor centres = at::empty({clusters, points.size(1)}, points.options());
  at::Tensor nearest = at::full({n}, std::numeric_limits<double>::max(), points.options());
  at::Tensor chosen = at::full({1}, static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(n))), points.options().dtype(at::kLong));
  for (std::int64_t c = 0; c < clusters; ++c) {
    const at::Tensor centre = points.index_select(0, chosen);
    centres.select(0, c).copy_(centre.select(0, 0));
    nearest = at::minimum(nearest, (points - centre).square().sum(1));
    const at::Tensor cumulated = nearest.cumsum(0);
    chosen = at::searchsorted(cumulated, cumulated.narrow(0, n - 1, 1) * random.uniform(), false, true).clamp_max(n - 1);
  }
  return centres;
}

}  // namespace

at::Tensor leading_eigenvectors_on_device(const at::Tensor& matrix, std::int64_t count, std::uint64_t seed, std::vector<double>* values) {
  const at::NoGradGuard no_grad;
  const std::int64_t n = matrix.size(0), vectors = std::min(n, count + kGuardVectors);
  SplitMix64 random(seed ^ 0x656967656eu);
  at::Tensor block = at::empty({n, vectors}, at::kDouble);
  for (std::int64_t i = 0; i < n * vectors; ++i) block.mutable_data_ptr<double>()[i] = random.uniform() - 0.5;
  block = orthonormal(block.to(matrix.device()));
  for (int round = 0; round < kPlainRounds; ++round) block = orthonormal(at::mm(matrix, block.to(at::kFloat)).to(at::kDouble));
  at::Tensor ritz = rayleigh_ritz(matrix, block);
  const auto value = [&](std::int64_t c) { return ritz.const_data_ptr<double>()[c]; };
  const double low = std::min(1.1 * value(vectors - 1), -0.02);
  for (int round = 0; round < kFilterRounds && vectors < n; ++round) {
    const double high = std::max({value(vectors - 1), 0.5 * value(count - 1), low + 0.02});
    if (high >= value(0)) break;  // nothing stands out of the rest
    block = orthonormal(filtered(matrix, block, low, high, std::max(1.0, value(0))));
    ritz = rayleigh_ritz(matrix, block);
  }
  if (values) values->assign(ritz.const_data_ptr<double>(), ritz.const_data_ptr<double>() + count);
  return block.narrow(1, 0, count).contiguous();
}

std::vector<std::int32_t> kmeans_on_device(const at::Tensor& points, std::int64_t clusters, std::uint64_t seed) {
  const at::NoGradGuard no_grad;
  const std::int64_t n = points.size(0);
  SplitMix64 random(seed ^ 0x6b6d65616e73u);
  const at::Tensor sizes = points.square().sum(1), one = at::full({1}, 1.0, points.options());
  at::Tensor best_labels;
  double best = std::numeric_limits<double>::infinity();
  for (int restart = 0; restart < kRestarts; ++restart) {
    at::Tensor centres = seed_centres(points, clusters, random), labels;
    double inertia = 0;
    for (int round = 0; round < kRounds; ++round) {
      const at::Tensor distances = at::addmm(centres.square().sum(1), points, centres.t(), 1, -2);  // but for the points' own sizes
      at::Tensor found = distances.argmin(1);
      inertia = distances.gather(1, found.unsqueeze(1)).sum().item<double>();
      const bool same = labels.defined() && labels.equal(found);
      labels = std::move(found);
      if (same) break;
      at::Tensor members = at::zeros({n, clusters}, points.options());
      members.scatter_(1, labels.unsqueeze(1), one.expand({n, 1}));
      const at::Tensor counts = members.sum(0).unsqueeze(1);
      // An empty cluster stays where it is.
      centres = at::mm(members.t(), points).div_(counts.clamp_min(1)) + centres * counts.eq(0).to(at::kDouble);
    }
    if (!best_labels.defined() || inertia < best) {
      best = inertia;
      best_labels = labels;
    }
  }
  const at::Tensor host = best_labels.to(at::kCPU, at::kInt).contiguous();
  return {host.const_data_ptr<std::int32_t>(), host.const_data_ptr<std::int32_t>() + n};
}

std::vector<std::int32_t> clusters_on_device(const at::Tensor& affinity, std::int64_t clusters, std::uint64_t seed, at::Device device) {
  const at::NoGradGuard no_grad;
  at::Tensor matrix = affinity.to(device, at::kFloat);
  if (!(at::isfinite(matrix).all().item<bool>() && matrix.min().item<float>() >= 0))
    throw NotFinite("spectral clustering: the affinity of some channels is not a number >= 0");
  const at::Tensor scale = matrix.sum(1, false, at::kDouble).clamp_min(1e-9).rsqrt().to(at::kFloat);
  matrix = (matrix * scale.unsqueeze(1)).mul_(scale.unsqueeze(0));
  at::Tensor points = leading_eigenvectors_on_device(matrix, clusters, seed);
  points = points / points.norm(2, 1, true).clamp_min(1e-12);
  return kmeans_on_device(points, clusters, seed);
}

}  // namespace miq
