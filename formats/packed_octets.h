// A packed matrix as a GPU reads it: in octets, up to eight neighbours of one group in storage order, each the work of one thread. What a
// kernel computes of an octet stands here, so that the tests run it on the CPU. C++17, because nvcc compiles it; the kernels are in
// cuda/packed.cu, and packed_view.h makes these arrays.
//
//   decoding   w = scale * (code - zero), rounded to float32, then to the tensor's own type where that is narrower, then to what is asked for:
//              the numbers that packed_decode.cc and a conversion by LibTorch give, bit for bit
//   product    y[r] = sum over groups of scale[g][r] * sum over the group's columns of (code - zero) * x, in float32: weights are not rounded
//
// Where weights are pruned, an octet's codes begin behind those of the octets before it: a warp of 32 octets counts them together, so
// only what lies before the first octet of a run is stored.
#pragma once

#include <cstdint>

#include "miq/formats/scale_code.h"

namespace miq {

constexpr int kOctet = 8, kWarpOctets = 32;
constexpr std::int64_t kMostDecodedOctets = 65535 * 256;  // of a row, by the kernel that decodes

struct PackedOctet {
  std::uint32_t column;      // of the first weight, in storage order
  std::uint32_t run;         // octets of one group within one warp
  std::uint16_t group;
  std::uint8_t count;        // 1 … 8 weights
  std::uint8_t first_lane;   // of its run
};

struct PackedGroupView {
  std::uint64_t codes_bit, zeros_bit, mask_bit;  // where the group's streams begin
  std::uint32_t first, columns;                  // in storage order
  std::uint32_t bits;
};

// Pointers to one memory, the host's or a device's. Streams are padded: 12 bytes beyond their end may be read.
struct PackedView {
  std::int64_t rows, cols, octets, runs;
  const PackedOctet* octet;              // [octets], warps of 32 in order
  const PackedGroupView* group;
  const std::uint32_t* codes;            // bit streams, little-endian
  const std::uint32_t* zeros;
  const std::uint32_t* mask;             // null: all weights are kept
  const float* scales;                   // [groups][rows]
  const std::uint32_t* kept_before;      // [runs][rows]: kept weights of the group before the run, where masked
  const std::uint32_t* column_of_place;  // [cols]: storage order to columns; null where they are the same
};

// 64 bits from bit `at` on, by aligned words.
MIQ_HOST_DEVICE std::uint64_t stream_bits(const std::uint32_t* words, std::uint64_t at) {
  const std::uint32_t* from = words + (at >> 5);
  const unsigned shift = static_cast<unsigned>(at & 31);
  const std::uint64_t low = from[0] | (static_cast<std::uint64_t>(from[1]) << 32);
  if (shift == 0) return low;
  return (low >> shift) | (static_cast<std::uint64_t>(from[2]) << (64 - shift));
}

MIQ_HOST_DEVICE std::uint32_t count_ones(std::uint32_t x) {
#if defined(__CUDA_ARCH__)
  return static_cast<std::uint32_t>(__popc(x));
#else
  return static_cast<std::uint32_t>(__builtin_popcount(x));
#endif
}

MIQ_HOST_DEVICE int zero_point(const PackedView& view, const PackedGroupView& group, std::int64_t row) {
  return static_cast<int>(stream_bits(view.zeros, group.zeros_bit + static_cast<std::uint64_t>(row) * group.bits) & ((1u << group.bits) - 1));
}

// Which of the octet's weights are kept, bit by bit.
MIQ_HOST_DEVICE std::uint32_t kept_bits(const PackedView& view, const PackedOctet& octet, std::int64_t row) {
  const std::uint32_t all = (1u << octet.count) - 1;
  if (!view.mask) return all;
  const PackedGroupView& group = view.group[octet.group];
  return static_cast<std::uint32_t>(stream_bits(view.mask, group.mask_bit + static_cast<std::uint64_t>(row) * group.columns + (octet.column - group.first))) & all;
}

// The octet's codes, one behind the other. `before`: kept weights of the row between the run's first octet and this one; any where nothing is pruned.
MIQ_HOST_DEVICE std::uint64_t octet_codes(const PackedView& view, const PackedOctet& octet, std::int64_t row, std::uint32_t before) {
  const PackedGroupView& group = view.group[octet.group];
  const std::uint64_t place = view.mask ? static_cast<std::uint64_t>(view.kept_before[static_cast<std::int64_t>(octet.run) * view.rows + row]) + before
                                        : static_cast<std::uint64_t>(row) * group.columns + (octet.column - group.first);
  return stream_bits(view.codes, group.codes_bit + place * group.bits);
}

MIQ_HOST_DEVICE float fused_multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return fmaf(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

// code - zero as a float, exactly: the code becomes the low bits of 2^23's significand, which is cheaper than a conversion.
MIQ_HOST_DEVICE float centred(std::uint32_t code, float zero_and_offset) { return float_of_bits(0x4B000000u | code) - zero_and_offset; }
MIQ_HOST_DEVICE float with_offset(int zero) { return static_cast<float>(8388608 + zero); }

// sum of (code - zero) * x over an octet of which nothing is pruned; `x` are eight numbers in storage order, zero beyond the octet's end.
template <unsigned kBits>
MIQ_HOST_DEVICE float whole_octet_product(std::uint64_t codes, float zero_and_offset, const float* x) {
  constexpr std::uint32_t kLow = (1u << kBits) - 1;
  float sum = 0;
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
  for (unsigned i = 0; i < kOctet; ++i) {
    sum = fused_multiply_add(centred(static_cast<std::uint32_t>(codes >> (i * kBits)) & kLow, zero_and_offset), x[i], sum);
  }
  return sum;
}

// The same over the kept weights, whose codes lie one behind the other.
MIQ_HOST_DEVICE float kept_octet_product(std::uint64_t codes, std::uint32_t kept, unsigned bits, float zero_and_offset, const float* x) {
  const std::uint32_t low = (1u << bits) - 1;
  float sum = 0;
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
  for (unsigned i = 0; i < kOctet; ++i) {
    const bool here = (kept >> i) & 1;
    sum = fused_multiply_add(centred(static_cast<std::uint32_t>(codes) & low, zero_and_offset), here ? x[i] : 0.0f, sum);
    codes = here ? codes >> bits : codes;
  }
  return sum;
}

MIQ_HOST_DEVICE float octet_product(const PackedView& view, std::uint64_t codes, std::uint32_t kept, unsigned bits, int zero, const float* x) {
  const float offset = with_offset(zero);
  if (view.mask) return kept_octet_product(codes, kept, bits, offset, x);
  switch (bits) {
    case 2: return whole_octet_product<2>(codes, offset, x);
    case 3: return whole_octet_product<3>(codes, offset, x);
    case 4: return whole_octet_product<4>(codes, offset, x);
    case 6: return whole_octet_product<6>(codes, offset, x);
    default: return whole_octet_product<8>(codes, offset, x);
  }
}

// A float32 as bfloat16, nearest even. REQUIRES no NaN.
MIQ_HOST_DEVICE std::uint16_t bfloat16_of(float value) {
  const std::uint32_t bits = float_bits(value);
  return static_cast<std::uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

// The float16 nearest to a float32, nearest even, as a float32. REQUIRES no NaN.
MIQ_HOST_DEVICE float rounded_to_half(float value) {
  const std::uint32_t sign = float_bits(value) & 0x80000000u, size = float_bits(value) ^ sign;
  constexpr std::uint32_t kLeastNormal = 0x38800000u, kTooLarge = 0x47800000u, kInfinite = 0x7F800000u;  // 2^-14, 2^16
  // Below the normal numbers halves are multiples of 2^-24, as are float32 numbers from 0.5 to 1.
  if (size < kLeastNormal) return float_of_bits(sign | float_bits((float_of_bits(size) + 0.5f) - 0.5f));
  const std::uint32_t rounded = size >= kTooLarge ? kInfinite : (size + 0xFFFu + ((size >> 13) & 1u)) & ~0x1FFFu;
  return float_of_bits(sign | (rounded >= kTooLarge ? kInfinite : rounded));
}

// What the numbers of a packed tensor are rounded to on the way: the type that the tensor decodes to.
enum PackedRounding : int { kFloat32Numbers = 0, kBfloat16Numbers = 1, kFloat16Numbers = 2 };

MIQ_HOST_DEVICE void put_number(float value, int rounding, std::uint16_t* to) {
  *to = bfloat16_of(rounding == kFloat16Numbers ? rounded_to_half(value) : value);
}
MIQ_HOST_DEVICE void put_number(float value, int rounding, float* to) {
  if (rounding == kBfloat16Numbers) value = float_of_bits(static_cast<std::uint32_t>(bfloat16_of(value)) << 16);
  *to = rounding == kFloat16Numbers ? rounded_to_half(value) : value;
}

// Eight numbers, as bfloat16 or float32; 0 where nothing is kept.
template <class Number>
MIQ_HOST_DEVICE void octet_decode(std::uint64_t codes, std::uint32_t kept, unsigned bits, int zero, float scale, int rounding, Number* to) {
  const std::uint32_t low = (1u << bits) - 1;
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
  for (unsigned i = 0; i < kOctet; ++i) {
    const bool here = (kept >> i) & 1;
    to[i] = 0;
    if (here) put_number(scale * static_cast<float>(static_cast<int>(codes & low) - zero), rounding, to + i);
    codes = here ? codes >> bits : codes;
  }
}

}  // namespace miq
