// The factor is that of the solvers (cholesky.h); the two products behind it run over blocks of the rows of W.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <optional>

#include "miq/compress/cholesky.h"
#include "miq/compress/hessian.h"
#include "miq/compress/structure.h"
#include "miq/model/forward.h"

namespace miq {
namespace {
constexpr std::int64_t kRows = 128;

at::Tensor index_of(const std::vector<std::int64_t>& numbers) { return at::tensor(numbers, at::TensorOptions(at::kLong)); }
}  // namespace

FittedColumns fit_columns(const at::Tensor& weights, const at::Tensor& hessian, const std::vector<std::int64_t>& kept, double damping,
                          bool fit, ThreadPool& pool) {
  const at::NoGradGuard no_grad;
  const std::int64_t n = weights.size(1), rows = weights.size(0);
  std::vector<std::int64_t> gone;
  for (std::int64_t i = 0, k = 0; i < n; ++i) {
    if (k < static_cast<std::int64_t>(kept.size()) && kept[static_cast<std::size_t>(k)] == i) {
      ++k;
    } else {
      gone.push_back(i);
    }
  }
  const at::Tensor keep = index_of(kept), lost = index_of(gone);
  FittedColumns result;
  result.weights = weights.index_select(1, keep).contiguous();
  if (!hessian.defined()) return result;
  if (fit && !gone.empty()) {
    const at::Tensor h = hessian.to(at::kDouble), among = h.index_select(0, keep).index_select(1, keep);
    at::Tensor damped = among.clone();
    damped.diagonal().add_(damping * among.diagonal().mean().item<double>());
    if (const std::optional<at::Tensor> inverse = inverse_cholesky(damped, pool)) {
      const at::Tensor across = h.index_select(0, lost).index_select(1, keep);
      pool.for_each((rows + kRows - 1) / kRows, [&](std::int64_t unit) {
        use_single_threaded_torch();
        const at::NoGradGuard inner;
        const std::int64_t first = unit * kRows, count = std::min(kRows, rows - first);
        const at::Tensor owed = weights.narrow(0, first, count).index_select(1, lost).to(at::kDouble).matmul(across);  // W_P H_PK
        const at::Tensor fitted = owed.matmul(inverse->t()).matmul(*inverse);                                          // (L L^T)^-1
        result.weights.narrow(0, first, count).add_(fitted.to(at::kFloat));
      });
      result.fitted = true;
    }
  }
  at::Tensor spread = at::zeros_like(weights);
  spread.index_copy_(1, keep, result.weights);
  const double before = output_error(weights, at::zeros_like(weights), hessian, pool);
  result.error = before > 0 ? output_error(weights, spread, hessian, pool) / before : 0;
  return result;
}

}  // namespace miq
