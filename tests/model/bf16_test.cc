// The AVX512-BF16 kernels against double loops over the same bfloat16 values.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "miq/formats/dtype.h"
#include "miq/model/bf16_attention.h"
#include "miq/model/bf16_elementwise.h"
#include "miq/model/bf16_product.h"
#include "miq/model/rope.h"
#include "tests/reference/forward_reference.h"

namespace miq {
namespace {

class Bf16Kernels : public testing::Test {
 protected:
  void SetUp() override {
    if (!have_bf16_kernels()) GTEST_SKIP() << "this CPU has no AVX512-BF16";
  }

  float normal() { return std::normal_distribution<float>()(random_); }
  std::vector<float> floats(std::size_t count, float scale = 1) {
    std::vector<float> values(count);
    for (float& value : values) value = scale * normal();
    return values;
  }
  std::vector<Bf16> bf16s(std::size_t count) {
    std::vector<Bf16> values(count);
    for (Bf16& value : values) value = f32_to_bf16(normal());
    return values;
  }

  std::mt19937 random_{5};
};

TEST_F(Bf16Kernels, ProductMatchesTheReference) {
  for (const auto& [rows, inner, columns] : {std::array{1, 2, 1}, {12, 64, 64}, {13, 6, 33}, {25, 130, 97}, {7, 1536, 40}, {300, 600, 70}}) {
    const auto a = bf16s(static_cast<std::size_t>(rows * (inner + 2))), w = bf16s(static_cast<std::size_t>(columns * inner));
    const std::int64_t lda = inner + 2;
    PackedBf16 packed(inner, columns);
    packed.set_columns(0, w.data(), inner, columns);
    std::vector<int> seen(static_cast<std::size_t>(rows * packed.padded_columns()));
    product(a.data(), lda, rows, packed, [&](std::int64_t row, std::int64_t count, std::int64_t column, const float* tile) {
      for (std::int64_t r = 0; r < count; ++r) {
        for (std::int64_t c = 0; c < kTileColumns; ++c) {
          ++seen[static_cast<std::size_t>((row + r) * packed.padded_columns() + column + c)];
          double exact = 0, size = 0;
          for (std::int64_t i = 0; i < inner && column + c < columns; ++i) {
            const double term = static_cast<double>(bf16_to_f32(a[static_cast<std::size_t>((row + r) * lda + i)])) *
                                bf16_to_f32(w[static_cast<std::size_t>((column + c) * inner + i)]);
            exact += term;
            size += std::abs(term);
          }
          ASSERT_NEAR(tile[r * kTileColumns + c], exact, 1e-6 * size) << rows << "x" << inner << "x" << columns;
        }
      }
    });
    for (const int times : seen) ASSERT_EQ(times, 1);
  }
}

TEST_F(Bf16Kernels, PackingByInnerIndexIsPackingTheTranspose) {
  constexpr std::int64_t kInner = 10, kColumns = 37;
  const auto w = bf16s(kInner * kColumns);  // [columns, inner]
  std::vector<Bf16> transposed(w.size());
  for (std::int64_t c = 0; c < kColumns; ++c) {
    for (std::int64_t i = 0; i < kInner; ++i) transposed[static_cast<std::size_t>(i * kColumns + c)] = w[static_cast<std::size_t>(c * kInner + i)];
  }
  PackedBf16 one(kInner, kColumns), other(kInner, kColumns);
  one.set_columns(0, w.data(), kInner, kColumns);
  other.set_inner(0, transposed.data(), kColumns, 4);
  other.set_inner(4, transposed.data() + 4 * kColumns, kColumns, kInner - 4);
  EXPECT_TRUE(std::equal(one.panel(0), one.panel(0) + one.padded_columns() * kInner, other.panel(0)));
}

// A row's sums do not depend on which rows stand beside it.
TEST_F(Bf16Kernels, RowsAreIndependentOfTheirPlace) {
  const auto a = bf16s(30 * 64), w = bf16s(50 * 64);
  PackedBf16 packed(64, 50);
  packed.set_columns(0, w.data(), 64, 50);
  std::vector<float> whole(30 * 64), single(64);
  product(a.data(), 64, 30, packed, [&](std::int64_t row, std::int64_t count, std::int64_t, const float* tile) {
    std::copy_n(tile, count * 64, whole.data() + row * 64);
  });
  for (std::int64_t row = 0; row < 30; ++row) {
    multiply_tile(a.data() + row * 64, 64, 1, packed, 0, 64, 64, single.data(), 64);
    EXPECT_TRUE(std::equal(single.begin(), single.end(), whole.data() + row * 64));
  }
}

TEST_F(Bf16Kernels, AttentionMatchesTheReference) {
  for (const AttentionSizes sizes : {AttentionSizes{1, 1, 1, 2}, {5, 3, 1, 10}, {64, 4, 2, 64}, {131, 6, 2, 34}, {300, 2, 2, 128}, {150, 1, 1, 66}, {131, 4, 2, 34, 7},
                                     {300, 2, 1, 64, 100}, {40, 2, 1, 16, 40}, {40, 2, 1, 16, 41}, {33, 1, 1, 8, 1}}) {
    const std::int64_t q_width = sizes.heads * sizes.head_dim, kv_width = sizes.kv_heads * sizes.head_dim, stride = q_width + 2 * kv_width + 3;
    const auto qkv = floats(static_cast<std::size_t>(sizes.tokens * stride), 1.5f);
    Config config;
    config.rope_theta = 1000;
    RopeTables tables(config);
    const RopeTable rope = tables.table(sizes.head_dim, sizes.tokens);
    std::vector<Bf16> got(static_cast<std::size_t>(sizes.tokens * q_width));
    causal_attention_bf16(sizes, qkv.data(), qkv.data() + q_width, qkv.data() + q_width + kv_width, stride, rope.cosines.const_data_ptr<float>(),
                          rope.sines.const_data_ptr<float>(), got.data());
    const auto part = [&](std::int64_t offset, std::int64_t width) {
      reference::Matrix m(sizes.tokens, width);
      for (std::int64_t t = 0; t < sizes.tokens; ++t) {
        for (std::int64_t i = 0; i < width; ++i) m.at(t, i) = qkv[static_cast<std::size_t>(t * stride + offset + i)];
      }
      return m;
    };
    const auto rounded = [](reference::Matrix m) {
      for (double& value : m.data) value = bf16_to_f32(f32_to_bf16(static_cast<float>(value)));
      return m;
    };
    reference::Matrix q = part(0, q_width), k = part(q_width, kv_width);
    reference::rotate(q, config, sizes.head_dim);
    reference::rotate(k, config, sizes.head_dim);
    const reference::Matrix expected = reference::attention(rounded(q), rounded(k), rounded(part(q_width + kv_width, kv_width)), sizes.head_dim, sizes.window);
    // Weights and result are rounded to 8 bits; rotation may round the other way at a tie.
    double squares = 0, size = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double difference = bf16_to_f32(got[i]) - expected.data[i];
      ASSERT_NEAR(difference, 0, 0.03) << sizes.tokens << " " << i;
      squares += difference * difference;
      size += expected.data[i] * expected.data[i];
    }
    EXPECT_LT(std::sqrt(squares / size), 0.004) << sizes.tokens;
  }
}

TEST_F(Bf16Kernels, ExponentialIsWithinItsBound) {
  std::vector<float> x, y;
  for (double value = -86.9; value < 88.6; value += 0.00037) x.push_back(static_cast<float>(value));
  y.resize(x.size());
  exponential_float(x.data(), static_cast<std::int64_t>(x.size()), y.data());
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::abs(y[i] / std::exp(static_cast<double>(x[i])) - 1));
  EXPECT_LT(worst, 1.3e-7);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float odd[] = {-kInfinity, kInfinity, std::nanf(""), 0, -200, 200, -0.0f};
  float got[7];
  exponential_float(odd, 7, got);
  EXPECT_EQ(got[0], 0);
  EXPECT_EQ(got[1], kInfinity);
  EXPECT_TRUE(std::isnan(got[2]));
  EXPECT_EQ(got[3], 1);
  EXPECT_EQ(got[4], 0);
  EXPECT_EQ(got[5], kInfinity);
  EXPECT_EQ(got[6], 1);
}

TEST_F(Bf16Kernels, ElementwiseStepsMatchTheReference) {
  for (const std::int64_t n : {1, 2, 15, 16, 17, 64, 130, 577}) {
    const auto count = static_cast<std::size_t>(n);
    const auto x = floats(count, 3), w = floats(count);
    const auto near = [](Bf16 got, double exact) { EXPECT_NEAR(bf16_to_f32(got), exact, std::abs(exact) / 255 + 1e-30); };
    std::vector<Bf16> got(count);

    rms_norm_bf16(x.data(), w.data(), 1e-5, n, got.data());
    reference::Matrix mx(1, n), mw(1, n);
    mx.data.assign(x.begin(), x.end());
    mw.data.assign(w.begin(), w.end());
    const reference::Matrix normed = reference::rms_norm(mx, mw, 1e-5);
    for (std::size_t i = 0; i < count; ++i) near(got[i], normed.data[i]);

    std::vector<float> in_place = x;
    rms_norm_float(in_place.data(), w.data(), 1e-5, n, in_place.data());
    for (std::size_t i = 0; i < count; ++i) EXPECT_NEAR(in_place[i], normed.data[i], std::abs(normed.data[i]) * 1e-6 + 1e-30);

    silu_times_bf16(x.data(), w.data(), n, got.data());
    for (std::size_t i = 0; i < count; ++i) near(got[i], x[i] / (1 + std::exp(-static_cast<double>(x[i]))) * w[i]);

    std::vector<float> sum(count);
    add_float(x.data(), w.data(), n, sum.data());
    for (std::size_t i = 0; i < count; ++i) EXPECT_EQ(sum[i], x[i] + w[i]);

    std::vector<Bf16> padded(count + 20, 7);
    const float total = softmax_numerators_bf16(x.data(), n, 0.5f, n + 19, padded.data());
    double largest = x[0], exact = 0;
    for (const float value : x) largest = std::max<double>(largest, value);
    for (std::size_t i = 0; i < count; ++i) {
      near(padded[i], std::exp(0.5 * (x[i] - largest)));
      exact += std::exp(0.5 * (x[i] - largest));
    }
    for (std::size_t i = count; i < count + 19; ++i) EXPECT_EQ(padded[i], 0);
    EXPECT_EQ(padded[count + 19], 7);
    EXPECT_NEAR(total, exact, 2e-6 * exact);
  }
}

TEST_F(Bf16Kernels, LogSumInPartsIsThatOfTheWhole) {
  const auto x = floats(5000, 8);
  LogSum state{-std::numeric_limits<float>::infinity(), 0};
  for (std::int64_t i = 0; i < 5000; i += 61) add_to_log_sum(state, x.data() + i, std::min<std::int64_t>(61, 5000 - i));
  double exact = 0;
  for (const float value : x) exact += std::exp(static_cast<double>(value));
  EXPECT_NEAR(state.largest + std::log(state.sum), std::log(exact), 3e-6);

  const float bad[] = {1, std::nanf(""), 2};
  LogSum odd{-std::numeric_limits<float>::infinity(), 0};
  add_to_log_sum(odd, bad, 3);
  EXPECT_TRUE(std::isnan(odd.sum));
}

}  // namespace
}  // namespace miq
