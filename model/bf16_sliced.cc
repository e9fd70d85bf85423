// 1 / sqrt(sum / m + e) = sqrt(m / n) / sqrt(sum / n + e m / n): the kernel of the plain norm over n values does for a fused one, with all
// weights sqrt(m / n).
#include "miq/model/bf16_sliced.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/count_nonzero.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "miq/model/avx512.h"
#include "miq/model/bf16_elementwise.h"

namespace miq {
namespace {

// x = high + low + an error of 2^-17 of x.
MIQ_AVX512_BF16 void split(const float* x, std::int64_t n, Bf16* high, Bf16* low) {
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = avx512::first_lanes(n - i);
    const __m512 v = _mm512_maskz_loadu_ps(lanes, x + i);
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(v);
    _mm256_mask_storeu_epi16(high + i, lanes, rounded);
    const __m512 back = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16));
    avx512::store_bf16(low + i, lanes, _mm512_sub_ps(v, back));
  }
}

}  // namespace

bool sliced_widths_fit(const Config& config, const LayerConfig& sizes) {
  return input_width(config, sizes) % 2 == 0 && middle_width(config, sizes) % 2 == 0 && output_width(config, sizes) % 2 == 0;
}

Rotation::Rotation(const at::Tensor& q) : in_(q.size(0)) {
  const at::Tensor exact = q.detach().to(at::kFloat).contiguous(), high = exact.to(at::kBFloat16);
  const at::Tensor low = (exact - high).to(at::kBFloat16);
  const auto bits = [](const at::Tensor& rows) { return reinterpret_cast<const Bf16*>(rows.const_data_ptr<at::BFloat16>()); };
  const bool whole = at::count_nonzero(low).item().toLong() == 0;
  packed_ = PackedBf16((whole ? 2 : 3) * in_, q.size(1));
  packed_.set_inner(0, bits(high), q.size(1), in_);
  packed_.set_inner(in_, bits(high), q.size(1), in_);
  if (!whole) packed_.set_inner(2 * in_, bits(low), q.size(1), in_);
}

void Rotation::carry(const float* x, std::int64_t tokens, float* to) const {
  const std::int64_t inner = packed_.inner(), n = out();
  thread_local std::vector<Bf16> parts;
  parts.resize(static_cast<std::size_t>(tokens * inner));
  for (std::int64_t t = 0; t < tokens; ++t) {
    Bf16* row = parts.data() + t * inner;
    split(x + t * in_, in_, row, row + in_);
    if (inner > 2 * in_) std::copy_n(row, in_, row + 2 * in_);
  }
  product(parts.data(), inner, tokens, packed_, [&](std::int64_t row, std::int64_t rows, std::int64_t column, const float* tile) {
    const std::int64_t count = std::min(kTileColumns, n - column);
    for (std::int64_t r = 0; r < rows && count > 0; ++r) std::copy_n(tile + r * kTileColumns, count, to + (row + r) * n + column);
  });
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
