// Products of few rows against plain sums in double, and their independence of rows and cuts.
#include "miq/model/row_product.h"

#include <gtest/gtest.h>

#include <random>

#include "miq/formats/dtype.h"
#include "tests/reference/row_products_reference.h"

namespace miq {
namespace {

std::vector<float> random_values(std::int64_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

std::vector<Bf16> narrowed(std::vector<float>& values) {
  std::vector<Bf16> bits;
  for (float& value : values) {
    bits.push_back(f32_to_bf16(value));
    value = bf16_to_f32(bits.back());
  }
  return bits;
}

TEST(RowProducts, MatchPlainSums) {
  for (const std::int64_t in : {1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 100, 576}) {
    for (const std::int64_t rows : {1, 2, 3, 4, 5, 7, 9}) {
      const std::int64_t out = 13, ldx = in + 3, ldy = out + 2;
      const auto x = random_values(rows * ldx, 1);
      auto w = random_values(out * in, 2);
      const auto bits = narrowed(w);
      std::vector<float> single(static_cast<std::size_t>(rows * ldy), -1), half = single, portable = single, portable_half = single;
      row_products(x.data(), ldx, rows, w.data(), in, out, single.data(), ldy);
      row_products(x.data(), ldx, rows, bits.data(), in, out, half.data(), ldy);
      row_products_portable(x.data(), ldx, rows, w.data(), in, out, portable.data(), ldy);
      row_products_portable(x.data(), ldx, rows, bits.data(), in, out, portable_half.data(), ldy);
      EXPECT_EQ(single, half) << in << " " << rows;
      EXPECT_EQ(portable, portable_half) << in << " " << rows;
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t o = 0; o < out; ++o) {
          const reference::Dot expected = reference::dot(x.data() + r * ldx, w.data() + o * in, in);
          ASSERT_NEAR(single[static_cast<std::size_t>(r * ldy + o)], expected.value, 1e-6 * expected.size) << in << " " << rows;
          ASSERT_NEAR(portable[static_cast<std::size_t>(r * ldy + o)], expected.value, 1e-6 * expected.size) << in << " " << rows;
        }
        EXPECT_EQ(single[static_cast<std::size_t>(r * ldy + out)], -1);  // nothing is written beyond
      }
    }
  }
}

TEST(RowProducts, DoNotDependOnOtherRowsOrCuts) {
  const std::int64_t in = 777, out = 90, rows = 11;
  const auto x = random_values(rows * in, 3);
  auto w = random_values(out * in, 4);
  const auto bits = narrowed(w);
  std::vector<float> together(static_cast<std::size_t>(rows * out)), apart = together;
  row_products(x.data(), in, rows, bits.data(), in, out, together.data(), out);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (const auto& [begin, end] : {std::pair<std::int64_t, std::int64_t>{0, 37}, {37, 38}, {38, out}}) {
      row_products(x.data() + r * in, in, 1, bits.data() + begin * in, in, end - begin, apart.data() + r * out + begin, out);
    }
  }
  EXPECT_EQ(together, apart);
}

TEST(WeightedRows, MatchPlainSums) {
  for (const std::int64_t width : {1, 6, 16, 64, 65}) {
    const std::int64_t count = 41;
    const auto p = random_values(count, 5);
    auto v = random_values(count * width, 6);
    const auto bits = narrowed(v);
    std::vector<float> single(static_cast<std::size_t>(width)), half = single;
    weighted_rows(p.data(), v.data(), count, width, single.data());
    weighted_rows(p.data(), bits.data(), count, width, half.data());
    EXPECT_EQ(single, half);
    for (std::int64_t j = 0; j < width; ++j) {
      std::vector<float> column;
      for (std::int64_t t = 0; t < count; ++t) column.push_back(v[static_cast<std::size_t>(t * width + j)]);
      const reference::Dot expected = reference::dot(p.data(), column.data(), count);
      EXPECT_NEAR(single[static_cast<std::size_t>(j)], expected.value, 1e-6 * expected.size);
    }
  }
}

}  // namespace
}  // namespace miq
