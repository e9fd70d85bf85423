// Vectors of sixteen floats, which the compiler splits where registers are narrower; the widest that the processor has are chosen when the
// program starts. Products take some columns at once and the rows in two halves, so that the sums stay in registers.
#include "miq/compress/tile_columns.h"

#define MIQ_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))

namespace miq {
namespace {

typedef float Lanes __attribute__((vector_size(64), aligned(4)));  // no alignment is assumed
constexpr int kLanes = 16;
constexpr int kStep = 8;  // columns at once

template <int Count, bool Subtract>
__attribute__((always_inline)) inline void some_columns(const float* in, std::int64_t width, const float* factors, std::int64_t stride, float* out) {
  for (int half = 0; half < 2; ++half) {
    Lanes sums[Count][2] = {};
    for (std::int64_t k = 0; k < width; ++k) {
      const Lanes* from = reinterpret_cast<const Lanes*>(in + k * kTileRows + half * 2 * kLanes);
      const Lanes first = from[0], second = from[1];
      for (int j = 0; j < Count; ++j) {
        const float u = factors[j * stride + k];
        sums[j][0] += first * u;
        sums[j][1] += second * u;
      }
    }
    for (int j = 0; j < Count; ++j) {
      Lanes* to = reinterpret_cast<Lanes*>(out + j * kTileRows + half * 2 * kLanes);
      to[0] = Subtract ? to[0] - sums[j][0] : sums[j][0];
      to[1] = Subtract ? to[1] - sums[j][1] : sums[j][1];
    }
  }
}

}  // namespace

MIQ_CLONES void subtract_columns(const float* in, const float* factors, std::int64_t begin, std::int64_t end, float* column) {
  Lanes* out = reinterpret_cast<Lanes*>(column);
  Lanes a = out[0], b = out[1], c = out[2], d = out[3];
  for (std::int64_t k = begin; k < end; ++k) {
    const Lanes* from = reinterpret_cast<const Lanes*>(in + k * kTileRows);
    const float u = factors[k];
    a -= from[0] * u;
    b -= from[1] * u;
    c -= from[2] * u;
    d -= from[3] * u;
  }
  out[0] = a;
  out[1] = b;
  out[2] = c;
  out[3] = d;
}

MIQ_CLONES void multiply_columns(const float* in, std::int64_t width, const float* factors, std::int64_t stride, std::int64_t count, float* out) {
  std::int64_t j = 0;
  for (; j + kStep <= count; j += kStep) some_columns<kStep, false>(in, width, factors + j * stride, stride, out + j * kTileRows);
  for (; j < count; ++j) some_columns<1, false>(in, width, factors + j * stride, stride, out + j * kTileRows);
}

MIQ_CLONES void subtract_product(const float* in, std::int64_t width, const float* factors, std::int64_t stride, std::int64_t count, float* out) {
  std::int64_t j = 0;
  for (; j + kStep <= count; j += kStep) some_columns<kStep, true>(in, width, factors + j * stride, stride, out + j * kTileRows);
  for (; j < count; ++j) some_columns<1, true>(in, width, factors + j * stride, stride, out + j * kTileRows);
}

MIQ_CLONES void error_column(const float* before, const float* after, float d, float* errors) {
  for (int r = 0; r < kTileRows; ++r) errors[r] = (before[r] - after[r]) / d;
}

}  // namespace miq
