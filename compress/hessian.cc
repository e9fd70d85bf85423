// The factor of the inverse.
//
// It needs one Cholesky factorisation and one triangular inverse: with J the reversal of the order,
// J H J = L L^T gives H = R R^T, R = J L J upper triangular, so H^-1 = U^T U with U = R^-1. (The original
// tools invert H fully and factorise the inverse, which costs three times as much and loses digits.)
#include "miq/compress/hessian.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/triu.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <string>

#include "miq/base/error.h"
#include "miq/compress/cholesky.h"
#include "miq/compress/row_tile.h"

namespace miq {
namespace {

void check_square(const at::Tensor& matrix) {
  if (matrix.dim() != 2 || matrix.size(0) != matrix.size(1) || matrix.scalar_type() != at::kFloat || !matrix.is_contiguous()) {
    throw Error("Hessian: expected a contiguous square float32 matrix");
  }
}

// H / scale in float64, rows and columns in the reverse of `order`, dead columns handled, before damping.
at::Tensor reversed_input(const at::Tensor& hessian, std::span<const std::int64_t> order, double scale, bool unit_dead,
                          std::span<const std::uint8_t> dead) {
  const std::int64_t n = hessian.size(0);
  at::Tensor reversed = at::empty({n, n}, at::kDouble);
  const float* in = hessian.const_data_ptr<float>();
  double* out = reversed.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < n; ++i) {
    const float* row = in + order[n - 1 - i] * n;
    for (std::int64_t j = 0; j < n; ++j) out[i * n + j] = row[order[n - 1 - j]] / scale;
    if (unit_dead && dead[order[n - 1 - i]]) out[i * n + i] = 1 / scale;
  }
  return reversed;
}

// The same by LibTorch's operations where the Hessian lies; `factor` knows the order, the scale and what is dead.
std::optional<InverseFactor> factor_on_device(const at::Tensor& hessian, const FactorOptions& options, InverseFactor factor) {
  const std::int64_t n = hessian.size(0);
  const at::Device device = hessian.device();
  std::vector<std::int64_t> reversed(factor.order.rbegin(), factor.order.rend());
  const at::Tensor index = at::from_blob(reversed.data(), {n}, at::TensorOptions(at::kLong)).to(device);
  at::Tensor input = hessian.index_select(0, index).index_select(1, index).to(at::kDouble).div_(factor.scale);
  if (options.dead_columns == DeadColumns::Zero && factor.dead_count() > 0) {
    const at::Tensor dead = at::from_blob(factor.dead.data(), {n}, at::TensorOptions(at::kByte)).to(device).to(at::kBool).index_select(0, index);
    input.diagonal().masked_fill_(dead, 1 / factor.scale);
  }
  at::Tensor inverse;
  double added = 0;
  for (double damping = options.damping; !inverse.defined() && damping <= std::max(1.0, options.damping) * 1.0000001; damping *= 10) {
    input.diagonal().add_(damping - added);
    added = damping;
    auto [lower, problem] = at::linalg_cholesky_ex(input);
    if (problem.item<std::int32_t>() != 0) continue;
    inverse = at::linalg_solve_triangular(lower, at::eye(n, input.options()), false);
    lower = at::Tensor();
    if (!std::isfinite(inverse.sum().item<double>())) inverse = at::Tensor();
    factor.damping = damping;
  }
  if (!inverse.defined()) return std::nullopt;
  input = at::Tensor();
  inverse = at::triu(inverse.flip({0, 1}));  // U = J L^-1 J
  const at::Tensor diagonal = inverse.square().sum(0).to(at::kCPU);
  factor.inverse_diagonal.resize(static_cast<std::size_t>(n));
  for (std::int64_t j = 0; j < n; ++j)
    factor.inverse_diagonal[static_cast<std::size_t>(factor.order[static_cast<std::size_t>(j)])] = diagonal.const_data_ptr<double>()[j] / factor.scale;
  factor.upper = inverse.to(at::kFloat);
  if (!at::isfinite(factor.upper).all().item<bool>()) return std::nullopt;
  return factor;
}

double error_on_device(const at::Tensor& a, const at::Tensor& b, const at::Tensor& hessian) {
  const at::NoGradGuard no_grad;
  const at::Tensor difference = at::sub(a.to(hessian.device()), b.to(hessian.device()));
  double sum = 0;
  constexpr std::int64_t kStrip = 4096;  // rows at once
  for (std::int64_t first = 0; first < difference.size(0); first += kStrip) {
    const at::Tensor rows = difference.narrow(0, first, std::min(kStrip, difference.size(0) - first));
    sum += at::mm(rows, hessian).mul_(rows).sum(at::kDouble).item<double>();
  }
  return sum;
}

}  // namespace

std::int64_t InverseFactor::dead_count() const { return std::count(dead.begin(), dead.end(), std::uint8_t{1}); }

std::optional<InverseFactor> factor_inverse(const at::Tensor& hessian, std::span<const std::int64_t> order, const FactorOptions& options,
                                            ThreadPool& pool, const ComputeDevice& where) {
  const at::NoGradGuard no_grad;
  check_square(hessian);
  const std::int64_t n = hessian.size(0);
  std::vector<bool> seen(n);
  if (static_cast<std::int64_t>(order.size()) != n) throw Error("Hessian: the order has not as many entries as there are columns");
  for (std::int64_t column : order) {
    if (column < 0 || column >= n || seen[column]) throw Error("Hessian: the order is no permutation of the columns");
    seen[column] = true;
  }
  if (!(options.damping > 0)) throw UsageError("damping must be above 0");

  if (n == 0 || !(where.used() ? at::isfinite(hessian).all().item<bool>() : all_finite(hessian.const_data_ptr<float>(), n * n))) return std::nullopt;
  InverseFactor factor;
  factor.order.assign(order.begin(), order.end());
  factor.dead_columns = options.dead_columns;
  factor.dead.resize(n);
  const at::Tensor own = hessian.diagonal().to(at::kCPU).contiguous();
  const float* diagonal_values = own.const_data_ptr<float>();
  double sum = 0;
  for (std::int64_t j = 0; j < n; ++j) sum += std::max(0.0f, diagonal_values[j]);
  if (!(sum > 0)) return std::nullopt;
  // A column is dead when it carries less than float32 can tell from zero beside the others.
  const bool unit_dead = options.dead_columns == DeadColumns::Zero;
  for (std::int64_t j = 0; j < n; ++j) factor.dead[j] = diagonal_values[j] <= (unit_dead ? 0.0 : 1e-14 * sum / n);
  factor.scale = (sum + (unit_dead ? factor.dead_count() : 0)) / n;

  if (where.used()) return factor_on_device(hessian, options, std::move(factor));
  const at::Tensor input = reversed_input(hessian, order, factor.scale, unit_dead, factor.dead);
  at::Tensor inverse;
  for (double damping = options.damping; !inverse.defined() && damping <= std::max(1.0, options.damping) * 1.0000001; damping *= 10) {
    at::Tensor damped = input.clone();
    damped.diagonal().add_(damping);
    const auto tried = inverse_cholesky(damped, pool);
    if (!tried || !std::isfinite(tried->sum().item<double>())) continue;
    inverse = *tried;
    factor.damping = damping;
  }
  if (!inverse.defined()) return std::nullopt;

  // U = J L^-1 J, and (H^-1)_jj = sum over i of U_ij^2.
  factor.upper = at::empty({n, n}, at::kFloat);
  float* upper = factor.upper.mutable_data_ptr<float>();
  const double* reversed = inverse.const_data_ptr<double>();
  std::vector<double> diagonal(n);
  for (std::int64_t i = 0; i < n; ++i) {
    const double* row = reversed + (n - 1 - i) * n;
    for (std::int64_t j = 0; j < n; ++j) {
      const double value = j >= i ? row[n - 1 - j] : 0.0;
      upper[i * n + j] = static_cast<float>(value);
      diagonal[j] += value * value;
    }
  }
  factor.inverse_diagonal.resize(n);
  for (std::int64_t j = 0; j < n; ++j) factor.inverse_diagonal[order[j]] = diagonal[j] / factor.scale;
  if (!all_finite(upper, n * n)) return std::nullopt;
  return factor;
}

std::vector<std::int64_t> natural_order(std::int64_t columns) {
  std::vector<std::int64_t> order(columns);
  std::iota(order.begin(), order.end(), 0);
  return order;
}

std::vector<std::int64_t> order_by_diagonal(const at::Tensor& hessian) {
  check_square(hessian);
  const std::int64_t n = hessian.size(0);
  const float* data = hessian.const_data_ptr<float>();
  std::vector<std::int64_t> order = natural_order(n);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return data[a * n + a] > data[b * n + b]; });
  return order;
}

double output_error(const at::Tensor& a, const at::Tensor& b, const at::Tensor& hessian, ThreadPool& pool) {
  check_square(hessian);
  const std::int64_t rows = a.size(0), n = hessian.size(0);
  if (a.sizes() != b.sizes() || a.dim() != 2 || a.size(1) != n) throw Error("output error: the matrices do not fit each other");
  if (!hessian.is_cpu()) return error_on_device(a, b, hessian);
  std::vector<double> partial(tile_count(rows));
  pool.for_each(tile_count(rows), [&](std::int64_t tile) {
    const at::NoGradGuard no_grad;
    const std::int64_t first = tile * kTileRows, count = std::min(kTileRows, rows - first);
    const at::Tensor difference = at::sub(a.narrow(0, first, count), b.narrow(0, first, count)).contiguous();
    const at::Tensor product = at::mm(difference, hessian);
    const float* d = difference.const_data_ptr<float>();
    const float* p = product.const_data_ptr<float>();
    double sum = 0;
    for (std::int64_t i = 0; i < count * n; ++i) sum += static_cast<double>(d[i]) * p[i];
    partial[tile] = sum;
  });
  return std::accumulate(partial.begin(), partial.end(), 0.0);
}

}  // namespace miq
