#include "miq/formats/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>

namespace miq {
namespace {

const DType kAll[] = {DType::Bool, DType::U8,  DType::I8,     DType::U16,    DType::I16, DType::U32,  DType::I32, DType::U64,
                      DType::I64,  DType::F8E4M3, DType::F8E5M2, DType::F16, DType::BF16, DType::F32, DType::F64};

// Value of a binary floating-point code by the definition, in double.
double value_of(std::uint32_t bits, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const std::uint32_t fraction = bits & ((1u << fraction_bits) - 1);
  const int exponent = static_cast<int>((bits >> fraction_bits) & ((1u << exponent_bits) - 1));
  const double sign = (bits >> (exponent_bits + fraction_bits)) & 1 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return fraction ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
  return sign * std::ldexp(1.0 + std::ldexp(fraction, -fraction_bits), exponent - bias);
}

// Nearest representable magnitude, ties to the even fraction, by arithmetic in double only.
std::uint16_t naive_round(float value, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const std::uint32_t sign = std::signbit(value) ? 0x8000 : 0;
  const std::uint32_t infinity = ((1u << exponent_bits) - 1) << fraction_bits;
  const double magnitude = std::fabs(static_cast<double>(value));
  if (std::isinf(magnitude)) return static_cast<std::uint16_t>(sign | infinity);
  if (magnitude == 0) return static_cast<std::uint16_t>(sign);
  int exponent = std::max(std::ilogb(magnitude), 1 - bias);
  const double steps = std::nearbyint(std::ldexp(magnitude, fraction_bits - exponent));  // exact but for the rounding
  // steps * 2^(exponent - fraction_bits): code of the binade plus the steps beyond its start.
  const double code = steps + std::ldexp(exponent - (1 - bias), fraction_bits);
  return static_cast<std::uint16_t>(sign | static_cast<std::uint32_t>(std::min<double>(code, infinity)));
}

TEST(DType, NamesSizesAndKindsAgree) {
  for (DType dtype : kAll) {
    EXPECT_EQ(dtype_from_name(dtype_name(dtype)), dtype);
    const std::string name(dtype_name(dtype));
    const auto digits = name.find_first_of("0123456789");
    const std::size_t bits = dtype == DType::Bool ? 8 : std::stoul(name.substr(digits));
    EXPECT_EQ(dtype_bytes(dtype) * 8, bits) << name;
    EXPECT_EQ(is_floating(dtype), name[0] == 'F' || name == "BF16") << name;
  }
}

TEST(DType, UnknownNamesAreNothing) {
  for (const char* name : {"", "f32", "F32 ", "F4", "F128", "FLOAT", "BF", "U7"}) EXPECT_FALSE(dtype_from_name(name)) << name;
}

TEST(DType, TensorBytes) {
  EXPECT_EQ(tensor_bytes(DType::F32, Shape{}), 4u);
  EXPECT_EQ(tensor_bytes(DType::F16, Shape{3, 5}), 30u);
  EXPECT_EQ(tensor_bytes(DType::F64, Shape{0, 1ll << 62, 1ll << 62}), 0u);
}

TEST(DType, TensorBytesRefusesOverflowAndNegativeSizes) {
  EXPECT_FALSE(tensor_bytes(DType::U8, Shape{-1}));
  EXPECT_FALSE(tensor_bytes(DType::U8, Shape{0, -1}));
  EXPECT_FALSE(tensor_bytes(DType::U8, Shape{1ll << 32, 1ll << 32}));
  EXPECT_FALSE(tensor_bytes(DType::F64, Shape{1ll << 61}));
  EXPECT_TRUE(tensor_bytes(DType::F64, Shape{1ll << 60}));
}

TEST(DType, EveryF16CodeWidensExactlyAndComesBack) {
  for (std::uint32_t code = 0; code < 65536; ++code) {
    const auto bits = static_cast<std::uint16_t>(code);
    const float wide = f16_to_f32(bits);
    const double expected = value_of(code, 5, 10);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(wide)) << code;
      ASSERT_EQ(f32_to_f16(wide), bits | 0x200) << code;  // quiet
      continue;
    }
    ASSERT_EQ(static_cast<double>(wide), expected) << code;
    ASSERT_EQ(std::signbit(wide), (code & 0x8000) != 0) << code;
    ASSERT_EQ(f32_to_f16(wide), bits) << code;
  }
}

TEST(DType, EveryBf16CodeWidensExactlyAndComesBack) {
  for (std::uint32_t code = 0; code < 65536; ++code) {
    const auto bits = static_cast<std::uint16_t>(code);
    const float wide = bf16_to_f32(bits);
    const double expected = value_of(code, 8, 7);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(wide)) << code;
      ASSERT_EQ(f32_to_bf16(wide), bits | 0x40) << code;
      continue;
    }
    ASSERT_EQ(static_cast<double>(wide), expected) << code;
    ASSERT_EQ(std::signbit(wide), (code & 0x8000) != 0) << code;
    ASSERT_EQ(f32_to_bf16(wide), bits) << code;
  }
}

void expect_rounds_like_the_reference(float value) {
  if (std::isnan(value)) return;
  ASSERT_EQ(f32_to_f16(value), naive_round(value, 5, 10)) << std::hexfloat << value;
  ASSERT_EQ(f32_to_bf16(value), naive_round(value, 8, 7)) << std::hexfloat << value;
}

TEST(DType, RoundingOfRandomBitsMatchesTheDoubleReference) {
  std::mt19937 random(1);
  for (int i = 0; i < 2'000'000; ++i) expect_rounds_like_the_reference(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
  // Most random exponents lie outside float16: draw those inside on purpose.
  for (int i = 0; i < 2'000'000; ++i) {
    const auto bits = static_cast<std::uint32_t>(random());
    expect_rounds_like_the_reference(std::bit_cast<float>((bits & 0x807fffff) | ((96 + (bits >> 23) % 50) << 23)));
  }
}

TEST(DType, RoundingAroundEveryTieMatchesTheDoubleReference) {
  for (std::uint32_t code = 0; code < 0x7c00; ++code) {
    const double low = value_of(code, 5, 10), high = code + 1 < 0x7c00 ? value_of(code + 1, 5, 10) : 65536.0;
    const auto tie = static_cast<float>((low + high) / 2);
    for (float value : {tie, std::nextafterf(tie, 0), std::nextafterf(tie, 1e9f)}) {
      expect_rounds_like_the_reference(value);
      expect_rounds_like_the_reference(-value);
    }
  }
  for (std::uint32_t code = 0; code < 0x7f80; ++code) {
    const float tie = std::bit_cast<float>(code << 16 | 0x8000);
    expect_rounds_like_the_reference(tie);
    expect_rounds_like_the_reference(std::nextafterf(tie, 0));
    expect_rounds_like_the_reference(std::nextafterf(tie, std::numeric_limits<float>::infinity()));
  }
}

TEST(DType, OverflowBecomesInfinityAndNanStaysNan) {
  EXPECT_EQ(f32_to_f16(65519.996f), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(-1e30f), 0xfc00);
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  // A NaN whose payload lies only in the bits that are cut off must not become infinity.
  const float sly = std::bit_cast<float>(0x7f800001u);
  EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(sly))));
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(sly))));
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0xffffffffu)))));
}

}  // namespace
}  // namespace miq
