// The arithmetic of one weight, shared by the CPU and the CUDA solver. C++17, because nvcc compiles it.
//
// Every operation is a plain IEEE 754 float32 operation (no fused multiply-add, no reciprocal), so both
// solvers compute the same bits from the same numbers.
#pragma once

#include <cstdint>
#include <cstring>

#include "miq/formats/scale_code.h"

namespace miq {

// Matrices are worked on in tiles of this many rows (row_tile.h, sweep_job.h).
constexpr std::int64_t kTileRows = 64;

// Round half to even; REQUIRES |x| <= 2^22. Adding 1.5 * 2^23 leaves no fraction bits in the sum.
MIQ_HOST_DEVICE float round_half_even(float x) {
  const float shift = 12582912.0f;
  return (x + shift) - shift;
}

MIQ_HOST_DEVICE float clamp_to(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

// The nearest F16 number with a normal exponent (2^-14 … 65504), as a float. REQUIRES x > 0.
MIQ_HOST_DEVICE float round_to_half(float x) {
  x = clamp_to(x, 6.103515625e-5f, 65504.0f);
  std::uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0xfffu + ((bits >> 13) & 1u)) & ~0x1fffu;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// The grid scale * (code - zero), code 0 … max_code, from a range that includes 0, shrunk by `clip`:
// quant.py of SparseGPT, with the scale rounded to the type that it is stored in before the zero is chosen.
MIQ_HOST_DEVICE float grid_scale(float low, float high, float clip, float max_code, bool half) {
  if (low == 0 && high == 0) {
    low = -1;
    high = 1;
  }
  float scale = clip * (high - low) / max_code;
  if (half) return round_to_half(scale);
  return scale < 1.17549435e-38f ? 1.17549435e-38f : scale;
}
MIQ_HOST_DEVICE float grid_zero(float low, float high, float clip, float max_code, float scale) {
  if (low == 0 && high == 0) low = -1;
  return clamp_to(round_half_even(clamp_to(-(clip * low) / scale, 0.0f, 4096.0f)), 0.0f, max_code);
}
// The same for coded scales (formats/scale_code.h): the least range that can be coded and holds the clipped one. What it is
// larger by is shared between both ends, so the zero point lies where it divides the range, whatever the clip.
MIQ_HOST_DEVICE float coded_grid_scale(float low, float high, float clip, float max_code, int scale_bits, std::uint32_t exponent) {
  if (low == 0 && high == 0) {
    low = -1;
    high = 1;
  }
  return range_not_below(clip * (high - low), scale_bits, exponent) / max_code;
}
MIQ_HOST_DEVICE float coded_grid_zero(float low, float high, float max_code) {
  if (low == 0 && high == 0) {
    low = -1;
    high = 1;
  }
  return round_half_even(-low / (high - low) * max_code);
}

// With four codes the range does not tell on which side of zero two of them are worth more, so a search tries both: the zero
// point z and 3 - z. It takes a tenth of a decibel off the errors; with eight codes it would take a fortieth.
MIQ_HOST_DEVICE bool tries_both_zeros(float max_code) { return max_code == 3; }

// The code (an integer 0 … max_code as a float) nearest to w.
MIQ_HOST_DEVICE float nearest_code(float w, float scale, float zero, float max_code) {
  const float steps = round_half_even(clamp_to(w / scale, -4096.0f, 4096.0f));
  return clamp_to(steps + zero, 0.0f, max_code);
}
// What a code decodes to; the formula of formats/packed_matrix.h.
MIQ_HOST_DEVICE float code_value(float code, float scale, float zero) { return scale * (code - zero); }

// Loss of pruning w where d = U_jj, times the importance f of its output row; sparsegpt.py.
MIQ_HOST_DEVICE float saliency(float w, float d, float f) { return (w * w) / (d * d) * f; }

}  // namespace miq
