// One short function per block type and a table of them. Each decodes one block into y and says whether
// its scales are finite; `run` makes the loop over blocks around it, which the compiler then inlines.
#include "miq/formats/gguf_blocks.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "miq/formats/dtype.h"

static_assert(std::endian::native == std::endian::little, "blocks are read in place");

namespace miq {
namespace {

using Byte = std::uint8_t;

std::uint16_t load_u16(const Byte* at) { return static_cast<std::uint16_t>(at[0] | at[1] << 8); }
float load_f16(const Byte* at) { return f16_to_f32(load_u16(at)); }

std::uint32_t load_u32(const Byte* at) {
  std::uint32_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

bool f32(const Byte* b, float* y) {
  std::memcpy(y, b, sizeof *y);
  return true;
}

bool f16(const Byte* b, float* y) {
  *y = load_f16(b);
  return true;
}

bool bf16(const Byte* b, float* y) {
  *y = bf16_to_f32(load_u16(b));
  return true;
}

bool q4_0(const Byte* b, float* y) {
  const float d = load_f16(b);
  for (int j = 0; j < 16; ++j) {
    const int q = b[2 + j];
    y[j] = d * static_cast<float>((q & 15) - 8);
    y[j + 16] = d * static_cast<float>((q >> 4) - 8);
  }
  return std::isfinite(d);
}

bool q4_1(const Byte* b, float* y) {
  const float d = load_f16(b), m = load_f16(b + 2);
  for (int j = 0; j < 16; ++j) {
    const int q = b[4 + j];
    y[j] = d * static_cast<float>(q & 15) + m;
    y[j + 16] = d * static_cast<float>(q >> 4) + m;
  }
  return std::isfinite(d) && std::isfinite(m);
}

// Element j of 32 five-bit codes: bit j of `high` above a nibble.
int five_bits(std::uint32_t high, const Byte* nibbles, int j) {
  const int low = j < 16 ? nibbles[j] & 15 : nibbles[j - 16] >> 4;
  return low | static_cast<int>(high >> j & 1) << 4;
}

bool q5_0(const Byte* b, float* y) {
  const float d = load_f16(b);
  const std::uint32_t high = load_u32(b + 2);
  for (int j = 0; j < 32; ++j) y[j] = d * static_cast<float>(five_bits(high, b + 6, j) - 16);
  return std::isfinite(d);
}

bool q5_1(const Byte* b, float* y) {
  const float d = load_f16(b), m = load_f16(b + 2);
  const std::uint32_t high = load_u32(b + 4);
  for (int j = 0; j < 32; ++j) y[j] = d * static_cast<float>(five_bits(high, b + 8, j)) + m;
  return std::isfinite(d) && std::isfinite(m);
}

bool q8_0(const Byte* b, float* y) {
  const float d = load_f16(b);
  for (int j = 0; j < 32; ++j) y[j] = d * static_cast<float>(static_cast<std::int8_t>(b[2 + j]));
  return std::isfinite(d);
}

// K types: 256 elements in runs of 32 (or 16) with their own small scales. Codes of two bits come from
// 32 bytes four times over, each time from the next two bits; of four bits twice over.

bool q2_k(const Byte* b, float* y) {
  const Byte *scales = b, *qs = b + 16;
  const float d = load_f16(b + 80), dmin = load_f16(b + 82);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, shift = i % 128 / 32 * 2;
    const int scale = scales[i / 16];
    const int q = qs[half * 32 + i % 32] >> shift & 3;
    y[i] = d * static_cast<float>(scale & 15) * static_cast<float>(q) - dmin * static_cast<float>(scale >> 4);
  }
  return std::isfinite(d) && std::isfinite(dmin);
}

bool q3_k(const Byte* b, float* y) {
  const Byte *mask = b, *qs = b + 32, *packed = b + 96;
  const float d = load_f16(b + 108);
  float scales[16];
  for (int k = 0; k < 16; ++k) {
    const int low = k < 8 ? packed[k] & 15 : packed[k - 8] >> 4;
    const int high = packed[8 + k % 4] >> (2 * (k / 4)) & 3;
    scales[k] = d * static_cast<float>((low | high << 4) - 32);
  }
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, shift = i % 128 / 32 * 2;
    const int low = qs[half * 32 + i % 32] >> shift & 3;
    const int high = mask[i % 32] >> (i / 32) & 1;  // a set bit means: do not subtract 4
    y[i] = scales[i / 16] * static_cast<float>(low - (high ? 0 : 4));
  }
  return std::isfinite(d);
}

// The eight 6-bit scales and minima of Q4_K and Q5_K, times d and dmin.
void scales_and_minima(const Byte* packed, float d, float dmin, float* scale, float* minimum) {
  for (int j = 0; j < 4; ++j) {
    scale[j] = d * static_cast<float>(packed[j] & 63);
    minimum[j] = dmin * static_cast<float>(packed[j + 4] & 63);
    scale[j + 4] = d * static_cast<float>((packed[j + 8] & 15) | packed[j] >> 6 << 4);
    minimum[j + 4] = dmin * static_cast<float>(packed[j + 8] >> 4 | packed[j + 4] >> 6 << 4);
  }
}

bool q4_k(const Byte* b, float* y) {
  const float d = load_f16(b), dmin = load_f16(b + 2);
  const Byte* qs = b + 16;
  float scale[8], minimum[8];
  scales_and_minima(b + 4, d, dmin, scale, minimum);
  for (int run = 0; run < 8; ++run) {
    for (int j = 0; j < 32; ++j) {
      const int q = qs[run / 2 * 32 + j] >> (run % 2 * 4) & 15;
      y[run * 32 + j] = scale[run] * static_cast<float>(q) - minimum[run];
    }
  }
  return std::isfinite(d) && std::isfinite(dmin);
}

bool q5_k(const Byte* b, float* y) {
  const float d = load_f16(b), dmin = load_f16(b + 2);
  const Byte *high = b + 16, *qs = b + 48;
  float scale[8], minimum[8];
  scales_and_minima(b + 4, d, dmin, scale, minimum);
  for (int run = 0; run < 8; ++run) {
    for (int j = 0; j < 32; ++j) {
      const int q = (qs[run / 2 * 32 + j] >> (run % 2 * 4) & 15) | (high[j] >> run & 1) << 4;
      y[run * 32 + j] = scale[run] * static_cast<float>(q) - minimum[run];
    }
  }
  return std::isfinite(d) && std::isfinite(dmin);
}

bool q6_k(const Byte* b, float* y) {
  const Byte *low = b, *high = b + 128, *scales = b + 192;
  const float d = load_f16(b + 208);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, quarter = i % 128 / 32;
    const int nibble = low[half * 64 + i % 64] >> (quarter / 2 * 4) & 15;
    const int top = high[half * 32 + i % 32] >> (quarter * 2) & 3;
    const float scale = d * static_cast<float>(static_cast<std::int8_t>(scales[i / 16]));
    y[i] = scale * static_cast<float>((nibble | top << 4) - 32);
  }
  return std::isfinite(d);
}

// The sixteen values of the non-linear four-bit types, closer together near zero.
constexpr std::array<std::int8_t, 16> kNonLinear{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

bool iq4_nl(const Byte* b, float* y) {
  const float d = load_f16(b);
  for (int j = 0; j < 16; ++j) {
    const int q = b[2 + j];
    y[j] = d * static_cast<float>(kNonLinear[q & 15]);
    y[j + 16] = d * static_cast<float>(kNonLinear[q >> 4]);
  }
  return std::isfinite(d);
}

bool iq4_xs(const Byte* b, float* y) {
  const Byte *low = b + 4, *qs = b + 8;
  const float d = load_f16(b);
  const int high = load_u16(b + 2);
  for (int run = 0; run < 8; ++run) {
    const int scale = (low[run / 2] >> (run % 2 * 4) & 15) | (high >> (2 * run) & 3) << 4;
    const float step = d * static_cast<float>(scale - 32);
    for (int j = 0; j < 16; ++j) {
      const int q = qs[run * 16 + j];
      y[run * 32 + j] = step * static_cast<float>(kNonLinear[q & 15]);
      y[run * 32 + j + 16] = step * static_cast<float>(kNonLinear[q >> 4]);
    }
  }
  return std::isfinite(d);
}

template <bool (*decode_block)(const Byte*, float*), std::uint32_t elements, std::uint32_t bytes>
std::int64_t run(const Byte* in, std::int64_t blocks, float* out) {
  for (std::int64_t i = 0; i < blocks; ++i, in += bytes, out += elements) {
    if (!decode_block(in, out)) return i;
  }
  return -1;
}

template <bool (*decode_block)(const Byte*, float*), std::uint32_t elements, std::uint32_t bytes>
constexpr GgufBlockType row(std::uint32_t id, std::string_view name, std::uint32_t code_bits = 0, std::array<std::int16_t, 2> halves = {-1, -1}) {
  return {id, name, elements, bytes, run<decode_block, elements, bytes>, code_bits, halves};
}

constexpr GgufBlockType listed(std::uint32_t id, std::string_view name, std::uint32_t elements, std::uint32_t bytes) {
  return {id, name, elements, bytes, nullptr};
}

// By id. Those without a decoder are there so that a file that holds them can be listed.
constexpr std::array kTypes{
    row<f32, 1, 4>(0, "F32"),
    row<f16, 1, 2>(1, "F16"),
    row<q4_0, 32, 18>(2, "Q4_0", 4, {0, -1}),
    row<q4_1, 32, 20>(3, "Q4_1", 4, {0, 2}),
    row<q5_0, 32, 22>(6, "Q5_0", 5, {0, -1}),
    row<q5_1, 32, 24>(7, "Q5_1", 5, {0, 2}),
    row<q8_0, 32, 34>(8, "Q8_0", 8, {0, -1}),
    row<q2_k, 256, 84>(10, "Q2_K", 2, {80, 82}),
    row<q3_k, 256, 110>(11, "Q3_K", 3, {108, -1}),
    row<q4_k, 256, 144>(12, "Q4_K", 4, {0, 2}),
    row<q5_k, 256, 176>(13, "Q5_K", 5, {0, 2}),
    row<q6_k, 256, 210>(14, "Q6_K", 6, {208, -1}),
    listed(15, "Q8_K", 256, 292),
    listed(16, "IQ2_XXS", 256, 66),
    listed(17, "IQ2_XS", 256, 74),
    listed(18, "IQ3_XXS", 256, 98),
    listed(19, "IQ1_S", 256, 50),
    row<iq4_nl, 32, 18>(20, "IQ4_NL", 4, {0, -1}),
    listed(21, "IQ3_S", 256, 110),
    listed(22, "IQ2_S", 256, 82),
    row<iq4_xs, 256, 136>(23, "IQ4_XS", 4, {0, -1}),
    listed(24, "I8", 1, 1),
    listed(25, "I16", 1, 2),
    listed(26, "I32", 1, 4),
    listed(27, "I64", 1, 8),
    listed(28, "F64", 1, 8),
    listed(29, "IQ1_M", 256, 56),
    row<bf16, 1, 2>(30, "BF16"),
    listed(34, "TQ1_0", 256, 54),
    listed(35, "TQ2_0", 256, 66),
    listed(39, "MXFP4", 32, 17),
};

template <typename Value>
const GgufBlockType* find_type(Value GgufBlockType::*field, Value value) {
  const auto at = std::ranges::find(kTypes, value, field);
  return at == kTypes.end() ? nullptr : &*at;
}

bool finite_half(const Byte* at) { return (load_u16(at) & 0x7c00) != 0x7c00; }

}  // namespace

const GgufBlockType* gguf_block_type(std::uint32_t id) { return find_type(&GgufBlockType::id, id); }
const GgufBlockType* gguf_block_type(std::string_view name) { return find_type(&GgufBlockType::name, name); }

std::int64_t GgufBlockType::first_bad(const std::uint8_t* in, std::int64_t blocks) const {
  for (std::int64_t i = 0; i < blocks; ++i, in += bytes) {
    for (const std::int16_t half : halves) {
      if (half >= 0 && !finite_half(in + half)) return i;
    }
  }
  return -1;
}

}  // namespace miq
