// What refining needs of a matrix before its tiles are visited: the order of the visit, the Hessian in that order, and a factor of each group's part of it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "miq/base/thread_pool.h"
#include "miq/compress/sweep.h"

namespace miq {

inline constexpr std::int64_t kRefineChunk = 128;   // columns whose moves are subtracted one by one
inline constexpr std::int64_t kRefineWidest = 256;  // columns of a group whose grids are found anew

// Of a group's part of the damped Hessian, A = (U^T U)^-1.
struct GroupFactor {
  std::vector<float> inverse;         // [m][m] U^T U
  std::vector<float> lower;           // [m][m] lower[j * m + k] = U_kj, k <= j
  std::vector<float> column_weights;  // [m] U_jj^-2 over its mean
};

// One matrix in visiting order. Arrays are [tiles][columns or groups][64] as in SweepJob.
struct RefineJob {
  std::int64_t rows = 0, cols = 0, tiles = 0, groups = 0;
  const PackedMatrix* packed = nullptr;
  std::vector<std::int64_t> order;           // [cols] place in the visit -> column
  std::vector<std::int64_t> starts;          // first places of the groups, and cols
  std::vector<std::int64_t> group_at;        // the packed matrix' group of each of them
  std::shared_ptr<const std::vector<float>> h;  // [cols][cols] of the damped Hessian in this order, over its mean diagonal
  std::shared_ptr<const std::vector<GroupFactor>> factors;  // [groups], empty matrices where a group is too wide
  std::vector<double> gains;                 // [tiles]
};

// One for each solution, [rows, n] each. `scale`: the Hessian's mean diagonal; `grids`: factors are wanted. Jobs that visit columns in the same
// order share the Hessian.
std::vector<RefineJob> make_refine_jobs(std::span<const SweepResult* const> solutions, const at::Tensor& hessian, double damping, double scale,
                                        std::span<const std::int64_t> order, bool grids, ThreadPool& pool);

}  // namespace miq
