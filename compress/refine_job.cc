// Groups are visited in the order of their first columns. The damped Hessian is copied into the visit's order, over its mean diagonal, so that a
// group's part is a block on its diagonal; such a block A is factored as (U^T U)^-1, of which refining onto new grids reads U.
#include "miq/compress/refine_job.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "miq/compress/cholesky.h"
#include "miq/compress/row_tile.h"

namespace miq {
namespace {

// Columns in the given order, those of a group brought together.
void plan_visit(const SweepResult& solution, std::span<const std::int64_t> order, RefineJob& job) {
  job.order.assign(order.begin(), order.end());
  if (job.groups == 0) {
    for (std::int64_t k = 0; k < job.cols; k += kRefineChunk) job.starts.push_back(k);
    job.starts.push_back(job.cols);
    return;
  }
  const auto& group_of = solution.packed.group_of_column;
  std::vector<std::int64_t> rank(job.groups, -1);  // groups in the order of their first columns
  for (std::int64_t column : order) {
    if (rank[group_of[column]] >= 0) continue;
    rank[group_of[column]] = static_cast<std::int64_t>(job.group_at.size());
    job.group_at.push_back(group_of[column]);
  }
  std::stable_sort(job.order.begin(), job.order.end(), [&](std::int64_t a, std::int64_t b) { return rank[group_of[a]] < rank[group_of[b]]; });
  for (std::int64_t k = 0; k < job.cols; ++k) {
    if (k == 0 || group_of[job.order[k]] != group_of[job.order[k - 1]]) job.starts.push_back(k);
  }
  job.starts.push_back(job.cols);
}

std::shared_ptr<const std::vector<float>> damped_hessian(const at::Tensor& hessian, double damping, std::span<const std::int64_t> order, ThreadPool& pool,
                                                         double scale) {
  const std::int64_t n = hessian.size(0), strip = 64;
  const float* in = hessian.const_data_ptr<float>();
  auto h = std::make_shared<std::vector<float>>(n * n);
  pool.for_each((n + strip - 1) / strip, [&](std::int64_t unit) {
    for (std::int64_t j = unit * strip; j < std::min(n, (unit + 1) * strip); ++j) {
      const float* row = in + order[j] * n;
      float* out = h->data() + j * n;
      for (std::int64_t k = 0; k < n; ++k) out[k] = static_cast<float>(row[order[k]] / scale);
      out[j] = static_cast<float>((row[order[j]] + damping) / scale);
    }
  });
  return h;
}

std::shared_ptr<const std::vector<GroupFactor>> factor_groups(const RefineJob& job, ThreadPool& pool) {
  auto factors = std::make_shared<std::vector<GroupFactor>>(job.starts.size() - 1);
  pool.for_each(static_cast<std::int64_t>(factors->size()), [&](std::int64_t group) {
    const at::NoGradGuard no_grad;
    const std::int64_t first = job.starts[group], m = job.starts[group + 1] - first;
    if (m > kRefineWidest) return;
    at::Tensor reversed = at::empty({m, m}, at::kDouble);
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < m; ++j)
        reversed.mutable_data_ptr<double>()[i * m + j] = (*job.h)[(first + m - 1 - i) * job.cols + first + m - 1 - j];
    ThreadPool one(1);
    const auto inverse = inverse_cholesky(reversed, one);  // L^-1; U = J L^-1 J as in hessian.cc
    if (!inverse) return;
    const double* l = inverse->const_data_ptr<double>();
    const auto u = [&](std::int64_t i, std::int64_t j) { return l[(m - 1 - i) * m + m - 1 - j]; };
    GroupFactor& factor = (*factors)[group];
    factor.inverse.resize(m * m);
    factor.lower.resize(m * m);
    double sum = 0;
    for (std::int64_t j = 0; j < m; ++j) {
      sum += 1 / (u(j, j) * u(j, j));
      for (std::int64_t k = 0; k <= j; ++k) {
        factor.lower[j * m + k] = static_cast<float>(u(k, j));
        double product = 0;
        for (std::int64_t i = 0; i <= k; ++i) product += u(i, j) * u(i, k);
        factor.inverse[j * m + k] = factor.inverse[k * m + j] = static_cast<float>(product);
      }
    }
    for (std::int64_t j = 0; j < m; ++j) factor.column_weights.push_back(static_cast<float>(static_cast<double>(m) / (sum * u(j, j) * u(j, j))));
  });
  return factors;
}

}  // namespace

std::vector<RefineJob> make_refine_jobs(std::span<const SweepResult* const> solutions, const at::Tensor& hessian, double damping, double scale,
                                        std::span<const std::int64_t> order, bool grids, ThreadPool& pool) {
  std::vector<RefineJob> jobs(solutions.size());
  for (std::size_t i = 0; i < solutions.size(); ++i) {
    RefineJob& job = jobs[i];
    const PackedMatrix& packed = solutions[i]->packed;
    job.rows = solutions[i]->values.size(0);
    job.cols = hessian.size(0);
    job.tiles = tile_count(job.rows);
    job.groups = packed.rows ? packed.groups() : 0;
    job.packed = &packed;
    job.gains.resize(job.tiles);
    plan_visit(*solutions[i], order, job);
    for (std::size_t other = 0; other < i && !job.h; ++other)
      if (jobs[other].order == job.order) job.h = jobs[other].h;
    if (!job.h) job.h = damped_hessian(hessian, damping, job.order, pool, scale);
    if (job.groups && grids) job.factors = factor_groups(job, pool);
  }
  return jobs;
}

}  // namespace miq
