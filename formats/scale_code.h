// Scales as short codes (spec/miq.md, "packed", coded scales): per (row, group) a code of 4 to 8 bits, per row
// one exponent. What is coded is the range that a group's codes span, so that groups of few and of many
// bits are coded equally well:
//
//   range = (1 + m / 2^M) * 2^(E - 7) * 2^(exponent - 127)     code = E * 2^M + m,  M = bits - 3,  0 <= E <= 7
//   scale = range / (2^b - 1)                                  in float32, rounded once; b: bits of the group's codes
//
// A representable range is thus a float32 whose lower 23 - M mantissa bits are zero and whose biased exponent
// lies in [exponent - 7, exponent]; with exponents in [16, 254] every scale is a normal number > 0. C++17, because
// nvcc compiles it.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define MIQ_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define MIQ_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace miq {

constexpr int kLeastScaleBits = 4, kMostScaleBits = 8;
constexpr std::uint32_t kLeastRowExponent = 16, kMostRowExponent = 254;

MIQ_HOST_DEVICE std::uint32_t float_bits(float x) {
  std::uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
MIQ_HOST_DEVICE float float_of_bits(std::uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// REQUIRES 4 <= bits <= 8, code < 2^bits and an exponent in its limits, here and below.
MIQ_HOST_DEVICE float coded_range(std::uint32_t code, int bits, std::uint32_t exponent) {
  return float_of_bits(((exponent - 7) << 23) + (code << (26 - bits)));
}

// The smallest range that can be coded and is not below `range`, or the largest there is. REQUIRES range >= 0, here and below.
MIQ_HOST_DEVICE float range_not_below(float range, int bits, std::uint32_t exponent) {
  const std::uint32_t step = 1u << (26 - bits), least = (exponent - 7) << 23, most = least + (step << bits) - step;
  std::uint32_t found = (float_bits(range) + (step - 1)) & ~(step - 1);
  found = found < least ? least : found;
  return float_of_bits(found > most ? most : found);
}

// The nearest range that can be coded; of two equally near ones the larger.
MIQ_HOST_DEVICE float nearest_range(float range, int bits, std::uint32_t exponent) {
  const std::uint32_t step = 1u << (26 - bits), least = (exponent - 7) << 23, most = least + (step << bits) - step;
  std::uint32_t found = (float_bits(range) + step / 2) & ~(step - 1);
  found = found < least ? least : found;
  return float_of_bits(found > most ? most : found);
}

// REQUIRES a range that can be coded.
MIQ_HOST_DEVICE std::uint32_t code_of_range(float range, int bits, std::uint32_t exponent) {
  return (float_bits(range) - ((exponent - 7) << 23)) >> (26 - bits);
}

// The exponent of a row whose largest range is `range`, so that at least half as much again can be coded.
MIQ_HOST_DEVICE std::uint32_t row_exponent(float range) {
  const std::uint32_t exponent = float_bits(1.5f * range) >> 23;
  return exponent < kLeastRowExponent ? kLeastRowExponent : exponent > kMostRowExponent ? kMostRowExponent : exponent;
}

}  // namespace miq
