// A unit of work is a block of columns of the sum: each adds the states in their order, so its bytes depend on
// nothing else. LAPACK's eigensolver runs in the calling thread.
#include "miq/compress/principal_axes.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "miq/base/error.h"
#include "miq/compress/row_tile.h"
#include "miq/model/forward.h"

namespace miq {
namespace {
constexpr std::int64_t kColumns = 128;
constexpr std::int64_t kBatchTokens = 4096;  // in float64 at once
}  // namespace

at::Tensor second_moments(std::span<const at::Tensor> states, ThreadPool& pool) {
  const at::NoGradGuard no_grad;
  if (states.empty()) throw Error("principal axes: no states");
  const std::int64_t n = states.front().size(1), blocks = (n + kColumns - 1) / kColumns;
  at::Tensor sum = at::zeros({n, n}, at::kDouble);
  for (std::size_t first = 0; first < states.size();) {
    std::int64_t tokens = 0;
    std::size_t end = first;
    while (end < states.size() && (end == first || tokens + states[end].size(0) <= kBatchTokens)) tokens += states[end++].size(0);
    std::vector<at::Tensor> wide(end - first);
    pool.for_each(static_cast<std::int64_t>(wide.size()), [&](std::int64_t unit) {
      const at::NoGradGuard inner;
      const at::Tensor state = states[first + static_cast<std::size_t>(unit)].contiguous();
      if (!all_finite(state.const_data_ptr<float>(), state.numel())) {
        throw Error("principal axes: the residual stream of a calibration window holds NaN or infinity; try --dtype float32");
      }
      wide[static_cast<std::size_t>(unit)] = state.to(at::kDouble);
    });
    pool.for_each(blocks, [&](std::int64_t unit) {
      use_single_threaded_torch();
      const at::NoGradGuard inner;
      const std::int64_t begin = unit * kColumns, width = std::min(kColumns, n - begin);
      at::Tensor block = sum.narrow(0, 0, begin + width).narrow(1, begin, width);  // on and above the diagonal
      for (const at::Tensor& x : wide) block.addmm_(x.narrow(1, 0, begin + width).t(), x.narrow(1, begin, width));
    });
    first = end;
  }
  double* values = sum.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < i; ++j) values[i * n + j] = values[j * n + i];
  }
  return sum;
}

double PrincipalAxes::share(std::int64_t count) const {
  double kept = 0, all = 0;
  for (std::size_t i = 0; i < energy.size(); ++i) {
    all += energy[i];
    if (static_cast<std::int64_t>(i) < count) kept += energy[i];
  }
  return all > 0 ? kept / all : 1;
}

PrincipalAxes principal_axes(const at::Tensor& moments, double damping) {
  const at::NoGradGuard no_grad;
  use_single_threaded_torch();
  const std::int64_t n = moments.size(0);
  const double added = damping * moments.diagonal().mean().item<double>();
  at::Tensor damped = moments.clone();
  damped.diagonal().add_(added);
  at::Tensor values, vectors;
  try {
    std::tie(values, vectors) = at::linalg_eigh(damped);  // rising
  } catch (const c10::Error&) {
    throw Error(
        "principal axes: the eigensolver failed on the residual stream's second moments; more calibration text or a larger --damping "
        "helps");
  }
  PrincipalAxes result;
  result.axes = vectors.flip(1).contiguous();
  values = values.flip(0).contiguous();
  for (std::int64_t i = 0; i < n; ++i) result.energy.push_back(std::max(0.0, values.const_data_ptr<double>()[i] - added));
  double* to = result.axes.mutable_data_ptr<double>();
  for (std::int64_t c = 0; c < n; ++c) {
    double largest = 0;
    for (std::int64_t r = 0; r < n; ++r) {
      // Not decided by the last bits where two components are as large.
      if (std::abs(to[r * n + c]) > std::abs(largest) * (1 + 1e-9)) largest = to[r * n + c];
    }
    if (largest >= 0) continue;
    for (std::int64_t r = 0; r < n; ++r) to[r * n + c] = -to[r * n + c];
  }
  return result;
}

}  // namespace miq
