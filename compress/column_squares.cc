// One running double a column.
#include "miq/compress/column_squares.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <bit>

namespace miq {
namespace {

__attribute__((target_clones("avx512f", "avx2", "default"))) void add_squares(const float* x, std::int64_t n, double* sums) {
  for (std::int64_t i = 0; i < n; ++i) sums[i] += static_cast<double>(x[i]) * x[i];
}

// bfloat16 bits: the upper half of a float.
__attribute__((target_clones("avx512f", "avx2", "default"))) void add_squares(const std::uint16_t* x, std::int64_t n, double* sums) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float value = std::bit_cast<float>(static_cast<std::uint32_t>(x[i]) << 16);
    sums[i] += static_cast<double>(value) * value;
  }
}

}  // namespace

std::vector<double> column_squares(const at::Tensor& x) {
  const at::NoGradGuard no_grad;
  if (!x.is_cpu()) {
    const at::Tensor on_device = x.to(at::kDouble).square().sum(0).to(at::kCPU);
    return {on_device.const_data_ptr<double>(), on_device.const_data_ptr<double>() + on_device.numel()};
  }
  const bool narrow = x.scalar_type() == at::kBFloat16;
  at::Tensor rows = narrow ? x : x.to(at::kFloat);
  if (rows.stride(1) != 1) rows = rows.contiguous();
  std::vector<double> sums(static_cast<std::size_t>(rows.size(1)));
  for (std::int64_t t = 0; t < rows.size(0); ++t) {
    const std::int64_t at = t * rows.stride(0);
    if (narrow) {
      add_squares(static_cast<const std::uint16_t*>(rows.const_data_ptr()) + at, rows.size(1), sums.data());
    } else {
      add_squares(rows.const_data_ptr<float>() + at, rows.size(1), sums.data());
    }
  }
  return sums;
}

}  // namespace miq
