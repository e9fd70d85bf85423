// Internal to hessian.cc: the inverse of a Cholesky factor, in float64, by blocks on the suite's threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "miq/base/thread_pool.h"

namespace miq {

// L^-1 of A = L L^T for a symmetric contiguous float64 `matrix` [n, n], of which only the lower triangle is read and which is
// used as working space; lower triangular, zero above. Nothing when A is not positive definite. Same bytes for any number of threads.
std::optional<at::Tensor> inverse_cholesky(at::Tensor matrix, ThreadPool& pool);

}  // namespace miq
