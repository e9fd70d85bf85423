// What the AVX512-BF16 sources share: the function attribute, masks, narrowing, spreading and the exponential.
// Call these only from functions marked MIQ_AVX512_BF16.
#pragma once

// GCC 12 warns about its own headers' deliberately undefined vectors (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <cstdint>

#define MIQ_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

namespace miq::avx512 {

// The first n of 16 lanes; all for n >= 16, none for n <= 0.
inline __mmask16 first_lanes(std::int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1u);
}

// Stores the chosen lanes as bfloat16, rounded to nearest even.
MIQ_AVX512_BF16 inline void store_bf16(std::uint16_t* to, __mmask16 lanes, __m512 values) {
  _mm256_mask_storeu_epi16(to, lanes, (__m256i)_mm512_cvtneps_pbh(values));
}

// The pair of bfloat16 in `pair`, in all 16 lanes.
MIQ_AVX512_BF16 inline __m512bh spread_pair(int pair) {
  __m512i lanes = _mm512_set1_epi32(pair);
#if defined(__clang__)
  asm("" : "+v"(lanes));  // clang 16 recurses without end on a spread integer that is taken for bfloat16
#endif
  return (__m512bh)lanes;
}

// e^x. x = n ln 2 + r with |r| <= ln 2 / 2, and e^r = 1 + r + r^2 p(r), p of degree 4 fitted to the
// relative error of e^r (3.1e-9): 1.2e-7 in all, from rounding. Exact limits: -inf gives 0 and +inf
// inf; NaN stays NaN; results under 2^-126 are subnormal or 0.
MIQ_AVX512_BF16 inline __m512 exponential(__m512 x) {
  // Outside this range the result is 0 or infinite anyway; the clamp keeps n small. max and min return
  // their second operand for NaN.
  x = _mm512_min_ps(_mm512_set1_ps(128.0f), _mm512_max_ps(_mm512_set1_ps(-128.0f), x));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);  // 9 bits: n times it is exact
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(0.0013814539415761828f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.00836874544620514f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.04166838899254799f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.1666652113199234f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.4999999403953552f));
  p = _mm512_fmadd_ps(_mm512_mul_ps(r, r), p, _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(p, n);
}

}  // namespace miq::avx512
