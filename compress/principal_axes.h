// Principal axes of the residual stream, in float64: the rotations of SliceGPT (slicegpt/rotate.py, pca_calc).
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

#include "miq/base/thread_pool.h"

namespace miq {

// Sum over tokens of x x^T, [n, n] float64, of states [tokens, n] float32. Same bytes for any number of threads.
// Throws Error on states that hold NaN or infinity.
at::Tensor second_moments(std::span<const at::Tensor> states, ThreadPool& pool);

struct PrincipalAxes {
  at::Tensor axes;             // [n, n] float64, orthogonal; column c is the axis of the c-th largest moment
  std::vector<double> energy;  // [n] of each axis, the damping taken out again; falling
  // The share of all energy that the first `count` axes hold.
  double share(std::int64_t count) const;
};

// Of the moments with `damping` times their mean diagonal added to the diagonal. Each axis points so that its largest component (the
// first of equal ones) is positive: the original leaves signs to the solver, or turns the axes by a random matrix without a seed.
// Throws Error where the eigensolver fails.
PrincipalAxes principal_axes(const at::Tensor& moments, double damping);

}  // namespace miq
