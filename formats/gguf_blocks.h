// The block types of GGUF: how ggml packs runs of 32 or 256 weights. Within this room only.
//
// All numbers little-endian; d, m, dmin are float16. In nibble types byte j holds element j in its low
// half and element j + 16 in its high half (per 32; K types: see gguf_blocks.cc).
//
//   type  id  elements  bytes  layout                                        value
//   Q4_0   2        32     18  d, 16 nibble bytes                            d * (q - 8)
//   Q4_1   3        32     20  d, m, 16 nibble bytes                         d * q + m
//   Q5_0   6        32     22  d, 32 fifth bits, 16 nibble bytes             d * (q - 16)
//   Q5_1   7        32     24  d, m, 32 fifth bits, 16 nibble bytes          d * q + m
//   Q8_0   8        32     34  d, 32 int8                                    d * q
//   Q2_K  10       256     84  16 x (4-bit scale, 4-bit min), 64 bytes of    (d * scale) * q - (dmin * min)
//                              2-bit codes, d, dmin
//   Q3_K  11       256    110  32 bytes of third bits, 64 bytes of 2-bit     (d * (scale - 32)) * (q - 4)
//                              codes, 12 bytes of 6-bit scales x 16, d
//   Q4_K  12       256    144  d, dmin, 12 bytes of 6-bit (scale, min) x 8,  (d * scale) * q - (dmin * min)
//                              128 nibble bytes
//   Q5_K  13       256    176  as Q4_K with 32 bytes of fifth bits before    (d * scale) * q - (dmin * min)
//                              the nibbles
//   Q6_K  14       256    210  128 bytes of low nibbles, 64 bytes of upper   (d * scale) * (q - 32)
//                              2 bits, 16 int8 scales, d
//   IQ4_NL 20      32     18  d, 16 nibble bytes                            d * v[q], v: 16 fixed values
//   IQ4_XS 23     256    136  d, 2 bytes and 4 bytes of the upper 2 and     (d * (scale - 32)) * v[q]
//                              lower 4 bits of 6-bit scales x 8, 128
//                              nibble bytes (in runs of 16)
//
// Every product and difference is rounded to float32 in the order written: the values equal those of
// gguf-py (and of ggml's reference code) bit by bit. Facts: ggml-common.h and ggml-quants.c of ggml.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace miq {

struct GgufBlockType {
  std::uint32_t id;
  std::string_view name;
  std::uint32_t elements;  // of one block
  std::uint32_t bytes;     // of one block
  // Decodes `blocks` blocks into blocks * elements floats. Returns the number of the first block with a
  // scale or minimum that is not finite (the rest is then not decoded), or -1. Null where miq cannot decode.
  std::int64_t (*decode)(const std::uint8_t* in, std::int64_t blocks, float* out);
  std::uint32_t code_bits = 0;             // of one weight's code; 0: the type is none of codes and scales, or has no decoder
  std::array<std::int16_t, 2> halves{-1, -1};  // offsets in a block of its float16 scales and minima; -1: none

  // The number of the first of `blocks` blocks with a scale or minimum that is not finite, or -1: what decode() returns, without decoding.
  std::int64_t first_bad(const std::uint8_t* in, std::int64_t blocks) const;
};

// The row of a ggml type id; null for ids that are unknown (or whose size is not fixed).
const GgufBlockType* gguf_block_type(std::uint32_t id);
// The same by name ("Q4_1").
const GgufBlockType* gguf_block_type(std::string_view name);

}  // namespace miq
