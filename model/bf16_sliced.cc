// 1 / sqrt(sum / m + e) = sqrt(m / n) / sqrt(sum / n + e m / n): the kernel of the plain norm over n values does for a fused one, with all
// weights sqrt(m / n).
#include "miq/model/bf16_sliced.h"

#include <ATen/ops/full.h>

#include <cmath>

#include "miq/model/avx512.h"
#include "miq/model/bf16_elementwise.h"

namespace miq {
namespace {

// Rows x 32 columns in registers: for each inner index two vectors of the panel, and one value of each row spread over a vector.
template <int Rows>
MIQ_AVX512_BF16 void rotate_rows(const float* x, std::int64_t in, const float* panel, float* to, std::int64_t stride, __mmask16 low, __mmask16 high) {
  __m512 sums[Rows][2];
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
  for (std::int64_t i = 0; i < in; ++i, panel += kPanel) {
    const __m512 b0 = _mm512_loadu_ps(panel), b1 = _mm512_loadu_ps(panel + 16);
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
      const __m512 spread = _mm512_set1_ps(x[r * in + i]);
      sums[r][0] = _mm512_fmadd_ps(spread, b0, sums[r][0]);
      sums[r][1] = _mm512_fmadd_ps(spread, b1, sums[r][1]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
    _mm512_mask_storeu_ps(to + r * stride, low, sums[r][0]);
    _mm512_mask_storeu_ps(to + r * stride + 16, high, sums[r][1]);
  }
}

}  // namespace

bool sliced_widths_fit(const Config& config, const LayerConfig& sizes) {
  return input_width(config, sizes) % 2 == 0 && middle_width(config, sizes) % 2 == 0 && output_width(config, sizes) % 2 == 0;
}

Rotation::Rotation(const at::Tensor& rotation) : in_(rotation.size(0)), out_(rotation.size(1)) {
  const at::Tensor rows = rotation.detach().to(at::kFloat).contiguous();
  const float* from = rows.const_data_ptr<float>();
  packed_.resize(static_cast<std::size_t>((out_ + kPanel - 1) / kPanel * kPanel * in_));
  for (std::int64_t i = 0; i < in_; ++i) {
    for (std::int64_t c = 0; c < out_; ++c) packed_[static_cast<std::size_t>((c / kPanel * in_ + i) * kPanel + c % kPanel)] = from[i * out_ + c];
  }
}

void Rotation::carry(const float* x, std::int64_t tokens, float* to) const {
  for (std::int64_t column = 0; column < out_; column += kPanel) {
    const float* panel = packed_.data() + column * in_;
    const __mmask16 low = avx512::first_lanes(out_ - column), high = avx512::first_lanes(out_ - column - 16);
    std::int64_t row = 0;
    for (; row + kTileRows <= tokens; row += kTileRows) rotate_rows<kTileRows>(x + row * in_, in_, panel, to + row * out_ + column, out_, low, high);
    for (; row + 4 <= tokens; row += 4) rotate_rows<4>(x + row * in_, in_, panel, to + row * out_ + column, out_, low, high);
    for (; row < tokens; ++row) rotate_rows<1>(x + row * in_, in_, panel, to + row * out_ + column, out_, low, high);
  }
}

PlainNorm plain_norm(std::int64_t width, std::int64_t mean_width, double epsilon) {
  const double share = static_cast<double>(mean_width) / static_cast<double>(width);
  return {at::full({width}, std::sqrt(share), at::TensorOptions(at::kFloat)), epsilon * share};
}

void fused_rms_norm_bf16(const float* x, std::int64_t tokens, std::int64_t n, std::int64_t mean_width, double epsilon, Bf16* to) {
  const PlainNorm plain = plain_norm(n, mean_width, epsilon);
  const float* weight = plain.weight.const_data_ptr<float>();
  for (std::int64_t t = 0; t < tokens; ++t) rms_norm_bf16(x + t * n, weight, plain.epsilon, n, to + t * n);
}

}  // namespace miq
