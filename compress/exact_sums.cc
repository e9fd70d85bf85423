// Rounding to a multiple of a power of two u is two additions: x + m has the unit u in its last place where m = 1.5 * 2^52 u, and m is taken away again
// exactly. A product of two powers of two is one, so m of an entry is a product of a row's number and a column's.
#include "miq/compress/exact_sums.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>
#include <span>

#include "miq/base/device_sums.h"
#include "miq/compress/panel_rows.h"

namespace miq {
namespace {

constexpr double kShift = 0x1.8p52;
constexpr std::int64_t kDeviceRows = 1024;  // of a panel: what is computed beside the sums stays small

}  // namespace

void raise_small_energies(std::vector<double>& energies, std::int64_t tokens) {
  if (tokens >= kFewTokens || energies.empty()) return;
  const double least = std::accumulate(energies.begin(), energies.end(), 0.0) / static_cast<double>(energies.size()) / 256;
  for (double& energy : energies) energy = std::max(energy, least);
}

at::Tensor grid_steps(const at::Tensor& energies) {
  const at::NoGradGuard no_grad;
  const at::Tensor exponents = energies.contiguous().view(at::kInt).bitwise_right_shift(23);
  return exponents.add(1).bitwise_right_shift(1).add(51).bitwise_left_shift(23).view(at::kFloat);
}

__attribute__((target_clones("avx512f", "avx2", "default"))) void add_on_grid(const float* part, float row_step, const float* steps, std::int64_t count,
                                                                             double* sum) {
  const double row = kShift * static_cast<double>(row_step);
  for (std::int64_t j = 0; j < count; ++j) {
    const double shift = row * static_cast<double>(steps[j]);
    sum[j] += (static_cast<double>(part[j]) + shift) - shift;
  }
}

std::uint64_t MomentSum::bytes(std::int64_t n) {
  std::uint64_t entries = 0;
  for (std::int64_t first = 0; first < n; first += edge(n)) entries += static_cast<std::uint64_t>(std::min(edge(n), n - first)) * static_cast<std::uint64_t>(n - first);
  return entries * sizeof(double);
}

MomentSum::MomentSum(std::int64_t n, at::Device device) : n_(n), edge_(device.is_cpu() ? edge(n) : kDeviceRows) {
  for (std::int64_t first = 0; first < n; first += edge_) {
    panels_.push_back({first, at::zeros({std::min(edge_, n - first), n - first}, at::TensorOptions(at::kDouble).device(device))});
  }
}

void add_panel_rows(MomentSum::Panel& panel, const at::Tensor& part, const at::Tensor& steps, std::int64_t row) {
  const at::NoGradGuard no_grad;
  const at::Tensor rows = steps.narrow(0, panel.first + row, part.size(0)).mul(kShift).unsqueeze(1), columns = steps.narrow(0, panel.first, part.size(1)).unsqueeze(0);
  at::Tensor rounded = at::addcmul(part.to(at::kDouble), rows, columns);
  rounded.addcmul_(rows, columns, -1);
  panel.values.narrow(0, row, part.size(0)).add_(rounded);
}

void MomentSum::add_panel(Panel& panel, const at::Tensor& part, const at::Tensor& steps) { add_panel_rows(panel, part, steps, 0); }

void MomentSum::sum_over(Ranks& ranks, int to) {
  if (ranks.alone()) return;
  auto* const direct = dynamic_cast<DeviceRanks*>(&ranks);  // the sums lie on devices that reach each other
  for (Panel& panel : panels_) {
    if (direct) {
      direct->sum_on_device(panel.values.mutable_data_ptr<double>(), static_cast<std::uint64_t>(panel.values.numel()), to);
      continue;
    }
    at::Tensor host = panel.values.to(at::kCPU);
    ranks.sum(std::span(host.mutable_data_ptr<double>(), static_cast<std::size_t>(host.numel())), to);
    if (!host.is_same(panel.values)) panel.values.copy_(host);
  }
}

at::Tensor MomentSum::mean(double count) const {
  const at::NoGradGuard no_grad;
  if (panels_.empty()) return at::empty({0, 0}, at::kFloat);
  at::Tensor result = at::empty({n_, n_}, panels_.front().values.options().dtype(at::kFloat));
  for (const Panel& panel : panels_) {
    const std::int64_t rows = panel.values.size(0);
    if (result.is_cpu()) {
      const double* in = panel.values.const_data_ptr<double>();
      float* out = result.mutable_data_ptr<float>() + panel.first * n_ + panel.first;
      for (std::int64_t i = 0; i < rows; ++i, in += n_ - panel.first, out += n_) {
        for (std::int64_t j = i; j < n_ - panel.first; ++j) out[j] = static_cast<float>(in[j] / count);
      }
    } else {
      result.narrow(0, panel.first, rows).narrow(1, panel.first, n_ - panel.first).copy_(panel.values.div(count));
    }
  }
  if (!result.is_cpu()) {
    const at::Tensor upper = result.triu();
    return upper.add(upper.triu(1).t());
  }
  float* out = result.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < n_; ++i) {
    for (std::int64_t j = 0; j < i; ++j) out[i * n_ + j] = out[j * n_ + i];
  }
  return result;
}

}  // namespace miq
