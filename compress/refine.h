// Better rounding after the sweep: coordinate descent on the layer's error.
//
// The sweep settles a weight once, knowing only the errors made before it. Here every weight is looked at again with all
// others in place. With D = W - Q, the error tr(D (H + damping I) D^T) falls into one term for each row; with
// g = D (H + damping I), changing weight j of a row by d changes its term by d^2 (H_jj + damping) - 2 d g_j, so the best value
// is q_j + g_j / (H_jj + damping), and the best point of the grid is the one nearest to that. Changing a (row, group)'s scale by s changes it
// by s^2 p H p^T - 2 s g p^T, p = codes - zero.
//
// What is pruned stays pruned. Only changes that lower the error are made, so it never rises.
// Rows are refined in tiles of fixed size, each by one thread: the same bytes for any number of threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "miq/base/thread_pool.h"
#include "miq/compress/compute_device.h"
#include "miq/compress/sweep.h"

namespace miq {

struct RefineOptions {
  // Times that all groups of a row are visited; 0: nothing is done. A tile stops before when a pass brings little.
  int passes = 2;
  // Times that a visit goes over a group's weights, the scale first; cheap beside the visit itself.
  int rounds = 2;
  bool scales = true;  // scales may change; they stay representable in their type
  // Ratios tried when a group's grids are found anew, on its best values given all others; kept where that lowers the error.
  // Empty: grids keep their zero points. Not for groups of more than 256 columns.
  std::span<const float> clips;
};

// A solution of sweep() or of rounding to nearest, made better in place: values, packed.codes, packed.scales.
struct RefineMatrix {
  at::Tensor target;      // [rows, n] float32, contiguous: W above
  SweepResult* solution;  // values [rows, n]; packed, or kept without quantization
};

// How much of tr(D (H + damping I) D^T) each matrix lost, in the unit of H: what its error fell by, at least 0. `order` is the order in
// which columns are visited, those of a group together. `damping` is what is added to the diagonal, in the unit of H.
// Throws Error when shapes do not fit. All tensors are on the CPU; on a device the products of errors and Hessian, which are most of the work, are
// computed there: a group of all rows at once, with other roundings.
std::vector<double> refine(std::span<const RefineMatrix> matrices, const at::Tensor& hessian, double damping,
                           std::span<const std::int64_t> order, const RefineOptions& options, ThreadPool& pool, const ComputeDevice& where = {});

}  // namespace miq
