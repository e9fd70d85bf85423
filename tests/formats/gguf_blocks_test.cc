// Each block type: codes and scales are packed here, element by element from the format's description,
// and must come back as the formula has it. (tests/python/compare_gguf.py compares with gguf-py.)
#include "miq/formats/gguf_blocks.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "miq/base/error.h"
#include "miq/formats/dtype.h"
#include "miq/formats/gguf.h"

namespace miq {
namespace {

using Buffer = std::vector<std::uint8_t>;

enum TypeId : std::uint32_t {
  F32 = 0,
  F16 = 1,
  Q4_0 = 2,
  Q4_1 = 3,
  Q5_0 = 6,
  Q5_1 = 7,
  Q8_0 = 8,
  Q2_K = 10,
  Q3_K = 11,
  Q4_K = 12,
  Q5_K = 13,
  Q6_K = 14,
  IQ4_NL = 20,
  IQ4_XS = 23,
  BF16 = 30
};
constexpr std::uint32_t kDecodable[] = {F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, BF16};

class Draw {
 public:
  explicit Draw(unsigned seed) : random_(seed) {}
  std::vector<int> codes(int count, int limit) {
    std::vector<int> values(count);
    for (int& value : values) value = static_cast<int>(random_() % static_cast<unsigned>(limit));
    return values;
  }
  std::uint16_t scale() { return f32_to_f16(static_cast<float>(static_cast<int>(random_() % 20001) - 10000) / 8192.0f); }

 private:
  std::mt19937 random_;
};

void put_u16(Buffer& block, std::size_t at, std::uint16_t value) {
  block[at] = static_cast<std::uint8_t>(value);
  block[at + 1] = static_cast<std::uint8_t>(value >> 8);
}

// Sets `count` bits of the block from bit `bit` of byte `at` on.
void put_bits(Buffer& block, std::size_t at, int bit, int value) { block[at] = static_cast<std::uint8_t>(block[at] | value << bit); }

std::vector<float> decode(std::uint32_t type, const Buffer& block) {
  const GgufBlockType* row = gguf_block_type(type);
  std::vector<float> values(row->elements, 99.0f);
  EXPECT_EQ(block.size(), row->bytes);
  EXPECT_EQ(row->decode(block.data(), 1, values.data()), -1);
  return values;
}

void expect_equal_bits(const std::vector<float>& got, const std::vector<float>& wanted) {
  ASSERT_EQ(got.size(), wanted.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(got[i]), std::bit_cast<std::uint32_t>(wanted[i]))
        << "element " << i << ": " << got[i] << " for " << wanted[i];
  }
}

float f(int value) { return static_cast<float>(value); }

class GgufBlocks : public testing::TestWithParam<unsigned> {
 protected:
  Draw draw{GetParam()};
  std::uint16_t d16 = draw.scale(), m16 = draw.scale();
  float d = f16_to_f32(d16), m = f16_to_f32(m16);
};
INSTANTIATE_TEST_SUITE_P(Seeds, GgufBlocks, testing::Range(0u, 4u));

TEST_P(GgufBlocks, Q4_0AndQ4_1) {
  const auto q = draw.codes(32, 16);
  Buffer block0(18), block1(20);
  put_u16(block0, 0, d16);
  put_u16(block1, 0, d16);
  put_u16(block1, 2, m16);
  std::vector<float> wanted0, wanted1;
  for (int i = 0; i < 32; ++i) {
    put_bits(block0, 2 + i % 16, i / 16 * 4, q[i]);
    put_bits(block1, 4 + i % 16, i / 16 * 4, q[i]);
    wanted0.push_back(d * f(q[i] - 8));
    wanted1.push_back(d * f(q[i]) + m);
  }
  expect_equal_bits(decode(Q4_0, block0), wanted0);
  expect_equal_bits(decode(Q4_1, block1), wanted1);
}

TEST_P(GgufBlocks, Q5_0AndQ5_1) {
  const auto q = draw.codes(32, 32);
  Buffer block0(22), block1(24);
  put_u16(block0, 0, d16);
  put_u16(block1, 0, d16);
  put_u16(block1, 2, m16);
  std::vector<float> wanted0, wanted1;
  for (int i = 0; i < 32; ++i) {
    put_bits(block0, 2 + i / 8, i % 8, q[i] / 16);
    put_bits(block1, 4 + i / 8, i % 8, q[i] / 16);
    put_bits(block0, 6 + i % 16, i / 16 * 4, q[i] % 16);
    put_bits(block1, 8 + i % 16, i / 16 * 4, q[i] % 16);
    wanted0.push_back(d * f(q[i] - 16));
    wanted1.push_back(d * f(q[i]) + m);
  }
  expect_equal_bits(decode(Q5_0, block0), wanted0);
  expect_equal_bits(decode(Q5_1, block1), wanted1);
}

TEST_P(GgufBlocks, Q8_0) {
  const auto q = draw.codes(32, 256);
  Buffer block(34);
  put_u16(block, 0, d16);
  std::vector<float> wanted;
  for (int i = 0; i < 32; ++i) {
    block[2 + i] = static_cast<std::uint8_t>(q[i] - 128);
    wanted.push_back(d * f(q[i] - 128));
  }
  expect_equal_bits(decode(Q8_0, block), wanted);
}

TEST_P(GgufBlocks, Q2_K) {
  const auto q = draw.codes(256, 4), scale = draw.codes(16, 16), minimum = draw.codes(16, 16);
  Buffer block(84);
  put_u16(block, 80, d16);
  put_u16(block, 82, m16);
  for (int k = 0; k < 16; ++k) block[k] = static_cast<std::uint8_t>(scale[k] | minimum[k] << 4);
  std::vector<float> wanted;
  for (int i = 0; i < 256; ++i) {
    put_bits(block, 16 + i / 128 * 32 + i % 32, 2 * (i / 32 % 4), q[i]);
    const float step = d * f(scale[i / 16]), low = m * f(minimum[i / 16]);
    const float product = step * f(q[i]);
    wanted.push_back(product - low);
  }
  expect_equal_bits(decode(Q2_K, block), wanted);
}

TEST_P(GgufBlocks, Q3_K) {
  const auto q = draw.codes(256, 8), scale = draw.codes(16, 64);
  Buffer block(110);
  put_u16(block, 108, d16);
  for (int k = 0; k < 16; ++k) {
    put_bits(block, 96 + k % 8, k / 8 * 4, scale[k] % 16);
    put_bits(block, 104 + k % 4, k / 4 * 2, scale[k] / 16);
  }
  std::vector<float> wanted;
  for (int i = 0; i < 256; ++i) {
    put_bits(block, i % 32, i / 32, q[i] / 4);
    put_bits(block, 32 + i / 128 * 32 + i % 32, 2 * (i / 32 % 4), q[i] % 4);
    const float step = d * f(scale[i / 16] - 32);
    wanted.push_back(step * f(q[i] - 4));
  }
  expect_equal_bits(decode(Q3_K, block), wanted);
}

// The 12 bytes at `at`: six-bit scales and minima of eight runs.
void put_scales(Buffer& block, std::size_t at, const std::vector<int>& scale, const std::vector<int>& minimum) {
  for (int k = 0; k < 8; ++k) {
    if (k < 4) {
      put_bits(block, at + k, 0, scale[k]);
      put_bits(block, at + 4 + k, 0, minimum[k]);
    } else {
      put_bits(block, at + 4 + k, 0, scale[k] % 16);
      put_bits(block, at + 4 + k, 4, minimum[k] % 16);
      put_bits(block, at + k - 4, 6, scale[k] / 16);
      put_bits(block, at + k, 6, minimum[k] / 16);
    }
  }
}

TEST_P(GgufBlocks, Q4_KAndQ5_K) {
  const auto q = draw.codes(256, 32), scale = draw.codes(8, 64), minimum = draw.codes(8, 64);
  Buffer block4(144), block5(176);
  for (Buffer* block : {&block4, &block5}) {
    put_u16(*block, 0, d16);
    put_u16(*block, 2, m16);
    put_scales(*block, 4, scale, minimum);
  }
  std::vector<float> wanted4, wanted5;
  for (int i = 0; i < 256; ++i) {
    const int run = i / 32;
    put_bits(block4, 16 + run / 2 * 32 + i % 32, run % 2 * 4, q[i] % 16);
    put_bits(block5, 48 + run / 2 * 32 + i % 32, run % 2 * 4, q[i] % 16);
    put_bits(block5, 16 + i % 32, run, q[i] / 16);
    const float step = d * f(scale[run]), low = m * f(minimum[run]);
    const float product4 = step * f(q[i] % 16), product5 = step * f(q[i]);
    wanted4.push_back(product4 - low);
    wanted5.push_back(product5 - low);
  }
  expect_equal_bits(decode(Q4_K, block4), wanted4);
  expect_equal_bits(decode(Q5_K, block5), wanted5);
}

TEST_P(GgufBlocks, Q6_K) {
  const auto q = draw.codes(256, 64), scale = draw.codes(16, 256);
  Buffer block(210);
  put_u16(block, 208, d16);
  for (int k = 0; k < 16; ++k) block[192 + k] = static_cast<std::uint8_t>(scale[k] - 128);
  std::vector<float> wanted;
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, quarter = i / 32 % 4, l = i % 32;
    // Quarters 0 and 1 take the low halves of 64 bytes, 2 and 3 the high halves.
    put_bits(block, half * 64 + quarter % 2 * 32 + l, quarter / 2 * 4, q[i] % 16);
    put_bits(block, 128 + half * 32 + l, quarter * 2, q[i] / 16);
    const float step = d * f(scale[i / 16] - 128);
    wanted.push_back(step * f(q[i] - 32));
  }
  expect_equal_bits(decode(Q6_K, block), wanted);
}

constexpr int kNonLinear[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

TEST_P(GgufBlocks, Iq4NlAndIq4Xs) {
  const auto q = draw.codes(256, 16), scale = draw.codes(8, 64);
  Buffer small(18), large(136);
  put_u16(small, 0, d16);
  put_u16(large, 0, d16);
  for (int k = 0; k < 8; ++k) {
    put_bits(large, 2 + k / 4, k % 4 * 2, scale[k] / 16);
    put_bits(large, 4 + k / 2, k % 2 * 4, scale[k] % 16);
  }
  std::vector<float> wanted_small, wanted_large;
  for (int i = 0; i < 256; ++i) {
    if (i < 32) {
      put_bits(small, 2 + i % 16, i / 16 * 4, q[i]);
      wanted_small.push_back(d * f(kNonLinear[q[i]]));
    }
    put_bits(large, 8 + i / 32 * 16 + i % 16, i / 16 % 2 * 4, q[i]);
    const float step = d * f(scale[i / 32] - 32);
    wanted_large.push_back(step * f(kNonLinear[q[i]]));
  }
  expect_equal_bits(decode(IQ4_NL, small), wanted_small);
  expect_equal_bits(decode(IQ4_XS, large), wanted_large);
}

TEST(GgufBlock, PlainFloats) {
  expect_equal_bits(decode(F32, {0x00, 0x00, 0x80, 0xbf}), {-1.0f});
  expect_equal_bits(decode(F16, {0x01, 0x3c}), {1.0009765625f});
  expect_equal_bits(decode(BF16, {0x40, 0xc0}), {-3.0f});
}

// One block of each small type with numbers worked out by hand: d = 0.5, m = -1.
TEST(GgufBlock, WorkedExamples) {
  Buffer q4_0(18), q4_1(20), q5_0(22), q5_1(24), q8_0(34);
  for (Buffer* block : {&q4_0, &q4_1, &q5_0, &q5_1, &q8_0}) put_u16(*block, 0, 0x3800);
  put_u16(q4_1, 2, 0xbc00);
  put_u16(q5_1, 2, 0xbc00);
  q4_0[2] = 0xf1;  // element 0: 1, element 16: 15
  q4_1[4] = 0xf1;
  q5_0[6] = q5_1[8] = 0xf1;
  q5_0[2] = q5_1[4] = 0x01;  // fifth bit of element 0
  q8_0[2] = 0x80;
  q8_0[33] = 0x7f;
  EXPECT_EQ(decode(Q4_0, q4_0)[0], -3.5f);
  EXPECT_EQ(decode(Q4_0, q4_0)[16], 3.5f);
  EXPECT_EQ(decode(Q4_0, q4_0)[1], -4.0f);
  EXPECT_EQ(decode(Q4_1, q4_1)[0], -0.5f);
  EXPECT_EQ(decode(Q4_1, q4_1)[16], 6.5f);
  EXPECT_EQ(decode(Q5_0, q5_0)[0], 0.5f);
  EXPECT_EQ(decode(Q5_0, q5_0)[16], -0.5f);
  EXPECT_EQ(decode(Q5_0, q5_0)[1], -8.0f);
  EXPECT_EQ(decode(Q5_1, q5_1)[0], 7.5f);
  EXPECT_EQ(decode(Q5_1, q5_1)[16], 6.5f);
  EXPECT_EQ(decode(Q8_0, q8_0)[0], -64.0f);
  EXPECT_EQ(decode(Q8_0, q8_0)[31], 63.5f);
}

TEST(GgufBlock, TableAnswers) {
  EXPECT_EQ(ggml_type_name(3), "Q4_1");
  EXPECT_EQ(ggml_type_name(99), "type 99");
  EXPECT_EQ(ggml_block(12), (std::pair{256u, 144u}));
  EXPECT_EQ(ggml_block(99), (std::pair{0u, 0u}));
  int decodable = 0;
  for (std::uint32_t id = 0; id < 1000; ++id) decodable += ggml_type_decodable(id);
  EXPECT_EQ(decodable, 15);
  for (std::uint32_t id : kDecodable) EXPECT_TRUE(ggml_type_decodable(id)) << id;
  EXPECT_FALSE(ggml_type_decodable(16));  // IQ2_XXS: listed only
}

std::string refusal(const GgufTensor& tensor) {
  try {
    dequantize_gguf(tensor, "blk.0.w");
  } catch (const FormatError& error) {
    return error.what();
  }
  return "accepted";
}

// Offsets of the 16-bit scales and minima in a block.
std::vector<std::size_t> scale_places(std::uint32_t type) {
  switch (type) {
    case Q4_0:
    case Q5_0:
    case Q8_0:
    case IQ4_NL:
    case IQ4_XS:
      return {0};
    case Q4_1:
    case Q5_1:
    case Q4_K:
    case Q5_K:
      return {0, 2};
    case Q2_K:
      return {80, 82};
    case Q3_K:
      return {108};
    case Q6_K:
      return {208};
    default:
      return {};
  }
}

TEST(DequantizeGguf, RefusesScalesThatAreNotFinite) {
  for (std::uint32_t type : kDecodable) {
    const auto [elements, bytes] = ggml_block(type);
    for (std::size_t place : scale_places(type)) {
      for (std::uint16_t bad : {0x7c00, 0xfc00, 0x7e00, 0x7c01}) {
        Buffer data(3 * bytes);
        put_u16(data, 2 * bytes + place, bad);
        const std::string message = refusal({type, {3, elements}, Blob(data)});
        EXPECT_NE(message.find("blk.0.w: block 2 (from element " + std::to_string(2 * elements) + ") has a scale that is not finite"),
                  std::string::npos)
            << ggml_type_name(type) << " at " << place << ": " << message;
      }
      Buffer data(3 * bytes);
      put_u16(data, 2 * bytes + place, 0x7bff);
      EXPECT_EQ(refusal({type, {3, elements}, Blob(data)}), "accepted");
    }
  }
}

TEST(DequantizeGguf, PassesPlainFloatsThatAreNotFinite) {
  Buffer data(4);
  put_u16(data, 0, 0x7c00);
  put_u16(data, 2, 0x7e00);
  const auto values = dequantize_gguf({F16, {2}, Blob(data)}, "x");
  EXPECT_TRUE(std::isinf(values[0]) && std::isnan(values[1]));
}

TEST(DequantizeGguf, RefusesTypesItCannotDecode) {
  EXPECT_NE(refusal({16, {256}, Blob(Buffer(66))}).find("blk.0.w: is stored as IQ2_XXS"), std::string::npos);
  EXPECT_NE(refusal({77, {256}, Blob(Buffer(66))}).find("is stored as type 77"), std::string::npos);
}

TEST(DequantizeGguf, RefusesDataThatDoesNotFitTheShape) {
  for (const GgufTensor& tensor :
       {GgufTensor{Q4_0, {32}, Blob(Buffer(17))}, GgufTensor{Q4_0, {64}, Blob(Buffer(18))}, GgufTensor{Q4_0, {16}, Blob(Buffer(18))},
        GgufTensor{Q4_0, {-32}, Blob(Buffer(18))}, GgufTensor{F32, {1ll << 40, 1ll << 40}, Blob(Buffer(4))}}) {
    EXPECT_NE(refusal(tensor).find("do not fit its shape"), std::string::npos);
  }
}

TEST(DequantizeGguf, EmptyTensors) { EXPECT_TRUE(dequantize_gguf({Q4_0, {5, 0}, Blob()}, "x").empty()); }

}  // namespace
}  // namespace miq
