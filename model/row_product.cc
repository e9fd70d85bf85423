// Every sum keeps 32 lanes, i modulo 32, and folds them at the end by halves. Four rows of x share a pass over a row of the
// matrix. With AVX-512 the lanes are two vector registers a row of x, and multiplications are fused with additions; bfloat16
// weights widen by a shift.
#include "miq/model/row_product.h"

#include <algorithm>
#include <bit>

#include "miq/model/avx512.h"

#define MIQ_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl")))

namespace miq {
namespace {

constexpr std::int64_t kLanes = 32;

inline float widened(float value) { return value; }
inline float widened(Bf16 value) { return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16); }

inline float folded(float* lanes) {
  for (std::int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::int64_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

template <class Weight>
void portable(const float* x, std::int64_t ldx, std::int64_t rows, const Weight* w, std::int64_t in, std::int64_t out, float* y,
              std::int64_t ldy) {
  for (std::int64_t o = 0; o < out; ++o, w += in) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* row = x + r * ldx;
      float lanes[kLanes] = {};
      std::int64_t i = 0;
      for (; i + kLanes <= in; i += kLanes) {
        for (std::int64_t l = 0; l < kLanes; ++l) lanes[l] += row[i + l] * widened(w[i + l]);
      }
      for (std::int64_t l = 0; i + l < in; ++l) lanes[l] += row[i + l] * widened(w[i + l]);
      y[r * ldy + o] = folded(lanes);
    }
  }
}

MIQ_AVX512 inline __m512 load(const float* from, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, from); }
MIQ_AVX512 inline __m512 load(const Bf16* from, __mmask16 lanes) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, from)), 16));
}
MIQ_AVX512 inline __m512 load(const float* from) { return _mm512_loadu_ps(from); }
MIQ_AVX512 inline __m512 load(const Bf16* from) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))), 16));
}

template <int Rows, class Weight>
MIQ_AVX512 void dots(const float* x, std::int64_t ldx, const Weight* w, std::int64_t in, float* y, std::int64_t ldy) {
  __m512 low[Rows], high[Rows];
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) low[r] = high[r] = _mm512_setzero_ps();
  std::int64_t i = 0;
  for (; i + kLanes <= in; i += kLanes) {
    const __m512 a = load(w + i), b = load(w + i + 16);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      low[r] = _mm512_fmadd_ps(_mm512_loadu_ps(x + r * ldx + i), a, low[r]);
      high[r] = _mm512_fmadd_ps(_mm512_loadu_ps(x + r * ldx + i + 16), b, high[r]);
    }
  }
  if (i < in) {
    const std::int64_t left = in - i;
    const auto first = static_cast<__mmask16>(left >= 16 ? 0xffffu : (1u << left) - 1u);
    const auto second = static_cast<__mmask16>(left > 16 ? (1u << (left - 16)) - 1u : 0u);
    const __m512 a = load(w + i, first), b = load(w + i + 16, second);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      low[r] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(first, x + r * ldx + i), a, low[r]);
      high[r] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(second, x + r * ldx + i + 16), b, high[r]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) y[r * ldy] = _mm512_reduce_add_ps(_mm512_add_ps(low[r], high[r]));
}

// Rows of the matrix that stay in the first-level cache while the rows of x pass by.
constexpr std::int64_t kCachedBytes = 24 * 1024;

template <class Weight>
MIQ_AVX512 void wide(const float* x, std::int64_t ldx, std::int64_t rows, const Weight* w, std::int64_t in, std::int64_t out, float* y,
                     std::int64_t ldy) {
  const std::int64_t block =
      rows <= 4 ? out : std::max<std::int64_t>(1, kCachedBytes / std::max<std::int64_t>(1, in * static_cast<std::int64_t>(sizeof(Weight))));
  for (std::int64_t begin = 0; begin < out; begin += block) {
    const std::int64_t end = std::min(out, begin + block);
    std::int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
      for (std::int64_t o = begin; o < end; ++o) dots<4>(x + r * ldx, ldx, w + o * in, in, y + r * ldy + o, ldy);
    }
    if (r + 2 <= rows) {
      for (std::int64_t o = begin; o < end; ++o) dots<2>(x + r * ldx, ldx, w + o * in, in, y + r * ldy + o, ldy);
      r += 2;
    }
    if (r < rows) {
      for (std::int64_t o = begin; o < end; ++o) dots<1>(x + r * ldx, ldx, w + o * in, in, y + r * ldy + o, ldy);
    }
  }
}

bool have_avx512() {
  static const bool have = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  return have;
}

__attribute__((target_clones("avx512f", "avx2", "default"))) void add_row(float p, const float* v, std::int64_t width, float* y) {
  for (std::int64_t j = 0; j < width; ++j) y[j] += p * v[j];
}

__attribute__((target_clones("avx512f", "avx2", "default"))) void add_row_bf16(float p, const Bf16* v, std::int64_t width, float* y) {
  for (std::int64_t j = 0; j < width; ++j) y[j] += p * widened(v[j]);
}

}  // namespace

void row_products_portable(const float* x, std::int64_t ldx, std::int64_t rows, const float* w, std::int64_t in, std::int64_t out, float* y,
                           std::int64_t ldy) {
  portable(x, ldx, rows, w, in, out, y, ldy);
}

void row_products_portable(const float* x, std::int64_t ldx, std::int64_t rows, const Bf16* w, std::int64_t in, std::int64_t out, float* y,
                           std::int64_t ldy) {
  portable(x, ldx, rows, w, in, out, y, ldy);
}

void row_products(const float* x, std::int64_t ldx, std::int64_t rows, const float* w, std::int64_t in, std::int64_t out, float* y,
                  std::int64_t ldy) {
  (have_avx512() ? wide<float> : portable<float>)(x, ldx, rows, w, in, out, y, ldy);
}

void row_products(const float* x, std::int64_t ldx, std::int64_t rows, const Bf16* w, std::int64_t in, std::int64_t out, float* y,
                  std::int64_t ldy) {
  (have_avx512() ? wide<Bf16> : portable<Bf16>)(x, ldx, rows, w, in, out, y, ldy);
}

void weighted_rows(const float* p, const float* v, std::int64_t count, std::int64_t width, float* y) {
  std::fill_n(y, width, 0.0f);
  for (std::int64_t t = 0; t < count; ++t) add_row(p[t], v + t * width, width, y);
}

void weighted_rows(const float* p, const Bf16* v, std::int64_t count, std::int64_t width, float* y) {
  std::fill_n(y, width, 0.0f);
  for (std::int64_t t = 0; t < count; ++t) add_row_bf16(p[t], v + t * width, width, y);
}

}  // namespace miq
