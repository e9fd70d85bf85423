// Plain 16-lane loops; the last, short vector of a row is masked. Sums keep 16 partial sums and add
// them in a fixed tree.
#include "miq/model/bf16_elementwise.h"

#include <cmath>
#include <limits>

#include "miq/model/avx512.h"

namespace miq {

using avx512::exponential;
using avx512::first_lanes;
using avx512::store_bf16;

namespace {

// 1 / sqrt(mean(x^2) + epsilon)
MIQ_AVX512_BF16 __m512 rms_scale(const float* x, double epsilon, std::int64_t n) {
  __m512 squares = _mm512_setzero_ps();
  for (std::int64_t i = 0; i < n; i += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(first_lanes(n - i), x + i);
    squares = _mm512_fmadd_ps(v, v, squares);
  }
  const double mean = static_cast<double>(_mm512_reduce_add_ps(squares)) / static_cast<double>(n);
  return _mm512_set1_ps(static_cast<float>(1 / std::sqrt(mean + epsilon)));
}

}  // namespace

MIQ_AVX512_BF16 void rms_norm_bf16(const float* x, const float* weight, double epsilon, std::int64_t n, Bf16* to) {
  const __m512 scale = rms_scale(x, epsilon, n);
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = first_lanes(n - i);
    const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), scale);
    store_bf16(to + i, lanes, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(lanes, weight + i)));
  }
}

MIQ_AVX512_BF16 void rms_norm_float(const float* x, const float* weight, double epsilon, std::int64_t n, float* to) {
  const __m512 scale = rms_scale(x, epsilon, n);
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = first_lanes(n - i);
    const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), scale);
    _mm512_mask_storeu_ps(to + i, lanes, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(lanes, weight + i)));
  }
}

MIQ_AVX512_BF16 void rotate_bf16(const float* x, const float* cosines, const float* sines, std::int64_t half, Bf16* to) {
  for (std::int64_t i = 0; i < half; i += 16) {
    const __mmask16 lanes = first_lanes(half - i);
    const __m512 low = _mm512_maskz_loadu_ps(lanes, x + i);
    const __m512 high = _mm512_maskz_loadu_ps(lanes, x + half + i);
    const __m512 c = _mm512_maskz_loadu_ps(lanes, cosines + i), d = _mm512_maskz_loadu_ps(lanes, sines + i);
    store_bf16(to + i, lanes, _mm512_fmsub_ps(low, c, _mm512_mul_ps(high, d)));
    store_bf16(to + half + i, lanes, _mm512_fmadd_ps(high, c, _mm512_mul_ps(low, d)));
  }
}

MIQ_AVX512_BF16 void silu_times_bf16(const float* gate, const float* up, std::int64_t n, Bf16* to) {
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = first_lanes(n - i);
    const __m512 g = _mm512_maskz_loadu_ps(lanes, gate + i), u = _mm512_maskz_loadu_ps(lanes, up + i);
    const __m512 below = _mm512_add_ps(_mm512_set1_ps(1.0f), exponential(_mm512_sub_ps(_mm512_setzero_ps(), g)));
    store_bf16(to + i, lanes, _mm512_mul_ps(_mm512_div_ps(g, below), u));
  }
}

MIQ_AVX512_BF16 void scale_bf16(const float* x, float scale, std::int64_t n, Bf16* to) {
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = first_lanes(n - i);
    store_bf16(to + i, lanes, _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), _mm512_set1_ps(scale)));
  }
}

MIQ_AVX512_BF16 void add_float(const float* a, const float* b, std::int64_t n, float* to) {
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = first_lanes(n - i);
    _mm512_mask_storeu_ps(to + i, lanes, _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, a + i), _mm512_maskz_loadu_ps(lanes, b + i)));
  }
}

MIQ_AVX512_BF16 float softmax_numerators_bf16(const float* x, std::int64_t n, float scale, std::int64_t padded, Bf16* to) {
  const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  __m512 largest = lowest;
  for (std::int64_t i = 0; i < n; i += 16) largest = _mm512_max_ps(largest, _mm512_mask_loadu_ps(lowest, first_lanes(n - i), x + i));
  const __m512 shift = _mm512_set1_ps(_mm512_reduce_max_ps(largest)), factor = _mm512_set1_ps(scale);
  __m512 sum = _mm512_setzero_ps();
  for (std::int64_t i = 0; i < padded; i += 16) {
    const __mmask16 lanes = first_lanes(n - i);
    const __m512 v = _mm512_mul_ps(factor, _mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, x + i), shift));
    const __m512 e = _mm512_maskz_mov_ps(lanes, exponential(v));
    sum = _mm512_add_ps(sum, e);
    store_bf16(to + i, first_lanes(padded - i), e);
  }
  return _mm512_reduce_add_ps(sum);
}

MIQ_AVX512_BF16 void rms_norm_backward(const float* x, const float* weight, double epsilon, std::int64_t n, const float* g, const float* add,
                                       float* to) {
  const __m512 scale = rms_scale(x, epsilon, n);
  __m512 products = _mm512_setzero_ps();
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = first_lanes(n - i);
    const __m512 gw = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, g + i), _mm512_maskz_loadu_ps(lanes, weight + i));
    products = _mm512_fmadd_ps(gw, _mm512_maskz_loadu_ps(lanes, x + i), products);
  }
  const float r = _mm512_cvtss_f32(scale);
  const __m512 back = _mm512_set1_ps(r * r * r * _mm512_reduce_add_ps(products) / static_cast<float>(n));
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = first_lanes(n - i);
    const __m512 gw = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, g + i), _mm512_maskz_loadu_ps(lanes, weight + i));
    const __m512 own = _mm512_fmsub_ps(gw, scale, _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), back));
    _mm512_mask_storeu_ps(to + i, lanes, _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, add + i), own));
  }
}

MIQ_AVX512_BF16 void silu_times_backward_bf16(const float* d, const float* gate, const float* up, std::int64_t n, Bf16* to_gate, Bf16* to_up) {
  const __m512 one = _mm512_set1_ps(1.0f);
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = first_lanes(n - i);
    const __m512 v = _mm512_maskz_loadu_ps(lanes, d + i), g = _mm512_maskz_loadu_ps(lanes, gate + i), u = _mm512_maskz_loadu_ps(lanes, up + i);
    const __m512 s = _mm512_div_ps(one, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), g))));
    // silu' = s (1 + g (1 - s))
    const __m512 slope = _mm512_mul_ps(s, _mm512_fmadd_ps(g, _mm512_sub_ps(one, s), one));
    store_bf16(to_gate + i, lanes, _mm512_mul_ps(_mm512_mul_ps(v, u), slope));
    store_bf16(to_up + i, lanes, _mm512_mul_ps(v, _mm512_mul_ps(g, s)));
  }
}

namespace {

// Lanes i … i+15 that lie in [begin, end).
MIQ_AVX512_BF16 __mmask16 lanes_between(std::int64_t i, std::int64_t begin, std::int64_t end) {
  return static_cast<__mmask16>(first_lanes(end - i) & ~first_lanes(begin - i));
}

}  // namespace

MIQ_AVX512_BF16 SoftmaxRow softmax_backward(float* x, const float* dp, std::int64_t begin, std::int64_t end, float scale, std::int64_t padded,
                                            Bf16* to) {
  const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity()), factor = _mm512_set1_ps(scale);
  const std::int64_t start = begin / 16 * 16;
  __m512 largest = lowest;
  for (std::int64_t i = start; i < end; i += 16) largest = _mm512_max_ps(largest, _mm512_mask_loadu_ps(lowest, lanes_between(i, begin, end), x + i));
  const float top = _mm512_reduce_max_ps(largest);
  __m512 sums = _mm512_setzero_ps(), products = _mm512_setzero_ps();
  for (std::int64_t i = start; i < end; i += 16) {
    const __mmask16 lanes = lanes_between(i, begin, end);
    const __m512 v = _mm512_mul_ps(factor, _mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, x + i), _mm512_set1_ps(top)));
    const __m512 e = _mm512_maskz_mov_ps(lanes, exponential(v));
    sums = _mm512_add_ps(sums, e);
    products = _mm512_fmadd_ps(e, _mm512_maskz_loadu_ps(lanes, dp + i), products);
    _mm512_storeu_ps(x + i, e);
  }
  const float sum = _mm512_reduce_add_ps(sums), mean = _mm512_reduce_add_ps(products) / sum;
  const __m512 share = _mm512_set1_ps(scale / sum), centre = _mm512_set1_ps(mean);
  for (std::int64_t i = 0; i < padded; i += 16) {
    const __mmask16 lanes = lanes_between(i, begin, end);
    const __m512 e = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), share);
    store_bf16(to + i, first_lanes(padded - i), _mm512_mul_ps(e, _mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, dp + i), centre)));
  }
  return {top * scale + std::log(sum), mean};
}

MIQ_AVX512_BF16 void softmax_column_backward(const float* x, const float* dp, const float* log_sums, const float* means, std::int64_t begin,
                                             std::int64_t end, float scale, std::int64_t padded, Bf16* to_p, Bf16* to_x) {
  const __m512 factor = _mm512_set1_ps(scale);
  for (std::int64_t i = begin / 16 * 16; i < padded; i += 16) {
    const __mmask16 lanes = lanes_between(i, begin, end), all = first_lanes(padded - i);
    const __m512 v = _mm512_fmsub_ps(factor, _mm512_maskz_loadu_ps(lanes, x + i), _mm512_maskz_loadu_ps(lanes, log_sums + i));
    const __m512 p = _mm512_maskz_mov_ps(lanes, exponential(v));
    const __m512 centred = _mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, dp + i), _mm512_maskz_loadu_ps(lanes, means + i));
    store_bf16(to_p + i, all, p);
    store_bf16(to_x + i, all, _mm512_mul_ps(_mm512_mul_ps(p, factor), centred));
  }
}

MIQ_AVX512_BF16 void add_to_log_sum(LogSum& state, const float* x, std::int64_t n) {
  const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  __m512 largest = lowest;
  for (std::int64_t i = 0; i < n; i += 16) largest = _mm512_max_ps(largest, _mm512_mask_loadu_ps(lowest, first_lanes(n - i), x + i));
  const float here = _mm512_reduce_max_ps(largest);
  if (here > state.largest) {
    state.sum *= std::exp(state.largest - here);
    state.largest = here;
  }
  const __m512 shift = _mm512_set1_ps(state.largest);
  __m512 sum = _mm512_setzero_ps();
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = first_lanes(n - i);
    sum = _mm512_add_ps(sum, _mm512_maskz_mov_ps(lanes, exponential(_mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, x + i), shift))));
  }
  state.sum += _mm512_reduce_add_ps(sum);
}

MIQ_AVX512_BF16 void exponential_float(const float* x, std::int64_t n, float* to) {
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = first_lanes(n - i);
    _mm512_mask_storeu_ps(to + i, lanes, exponential(_mm512_maskz_loadu_ps(lanes, x + i)));
  }
}

}  // namespace miq
