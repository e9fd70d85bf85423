// Lattices of every kind are found and decode to their own bits; matrices that lie on none are left alone.
#include "miq/converters/lattice.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "miq/converters/lattice_groups.h"
#include "miq/converters/lattice_scale.h"
#include "tests/converters/lattice_inputs.h"
#include "tests/reference/lattice_reference.h"

namespace miq {
namespace {

constexpr DType kDTypes[] = {DType::F32, DType::F16, DType::BF16};

// Decodes by the reference formula rather than by the decoder.
std::vector<std::uint8_t> decoded_plainly(const Tensor& packed) {
  const PackedMatrix m = unpack(packed, "test");
  std::vector<float> values(m.codes.size());
  for (std::int64_t r = 0; r < m.rows; ++r) {
    for (std::int64_t c = 0; c < m.cols; ++c) {
      const auto at = static_cast<std::size_t>(r * m.cols + c);
      const auto set = static_cast<std::size_t>(m.group_of_column[static_cast<std::size_t>(c)] * m.rows + r);
      values[at] = !m.kept.empty() && !m.kept[at] ? 0.0f : m.scales[set] * static_cast<float>(int{m.codes[at]} - int{m.zeros[set]});
    }
  }
  const Blob bytes = decode(matrix_of(values, m.rows, m.cols, packed.dtype), "test");
  return {bytes.bytes().begin(), bytes.bytes().end()};
}

void expect_exact(const Tensor& source, const Lattice& lattice) {
  ASSERT_TRUE(lattice.packed) << lattice.reason;
  const Blob bytes = decode(source, "test"), again = decode(*lattice.packed, "test");
  EXPECT_TRUE(std::ranges::equal(bytes.bytes(), again.bytes()));
  EXPECT_TRUE(std::ranges::equal(bytes.bytes(), decoded_plainly(*lattice.packed)));
  EXPECT_LE(lattice.proven_scales, lattice.scales);
}

TEST(LatticeScale, NumbersRoundingToAreExactlyThose) {
  std::mt19937 random(1);
  for (const DType dtype : kDTypes) {
    for (int i = 0; i < 20000; ++i) {
      std::uint32_t bits = random() & 0x7FFFFFFF;
      if (dtype == DType::F16) bits = std::bit_cast<std::uint32_t>(f16_to_f32(static_cast<std::uint16_t>(1 + bits % 0x7BFF)));
      if (dtype == DType::BF16) bits = std::max(bits % 0x7F800000u, 0x10000u) & 0xFFFF0000u;
      if (dtype == DType::F32) bits = std::max(bits % 0x7F800000u, 1u);
      const FloatRange range = numbers_rounding_to(bits, dtype);
      ASSERT_FALSE(range.empty());
      for (const std::uint32_t inside : {range.low, range.high, range.low + (range.high - range.low) / 2})
        ASSERT_EQ(reference::rounded(std::bit_cast<float>(inside), dtype), bits);
      ASSERT_NE(reference::rounded(std::bit_cast<float>(range.low - 1), dtype), bits);
      ASSERT_NE(reference::rounded(std::bit_cast<float>(range.high + 1), dtype), bits);
    }
  }
}

TEST(LatticeScale, RowsAreReadAsTheyWiden) {
  std::vector<std::uint8_t> bytes(65536 * 2);
  for (std::uint32_t half = 0; half < 65536; ++half) {
    bytes[half * 2] = static_cast<std::uint8_t>(half);
    bytes[half * 2 + 1] = static_cast<std::uint8_t>(half >> 8);
  }
  std::vector<std::uint32_t> row(65536);
  FloatMatrix{bytes, DType::F16, 1, 65536}.read_row(0, row);
  for (std::uint32_t half = 0; half < 65536; ++half) {
    const float value = f16_to_f32(static_cast<std::uint16_t>(half));
    ASSERT_TRUE(std::isnan(value) ? std::isnan(std::bit_cast<float>(row[half])) : row[half] == std::bit_cast<std::uint32_t>(value)) << half;
  }
}

TEST(LatticeScale, ScalesGivingAreExactlyThose) {
  std::mt19937 random(2);
  for (int i = 0; i < 50000; ++i) {
    const int k = 1 + static_cast<int>(random() % 255);
    // Every tenth near the smallest numbers, where rounding is absolute.
    const std::uint32_t product = i % 10 == 0 ? 1 + random() % 100000 : 1 + random() % 0x7F000000u;
    const FloatRange products{product, product + static_cast<std::uint32_t>(random() % 3)};
    const FloatRange scales = scales_giving(products, k);
    const auto gives = [&](std::uint32_t scale) {
      const float value = std::bit_cast<float>(scale) * static_cast<float>(k);
      return value >= products.low_value() && value <= products.high_value();
    };
    const std::uint32_t guess = std::bit_cast<std::uint32_t>(products.low_value() / static_cast<float>(k));
    for (std::uint32_t scale = guess > 8 ? guess - 8 : 1; scale < guess + 16; ++scale)
      ASSERT_EQ(gives(scale), scale >= scales.low && scale <= scales.high) << k << " " << product;
  }
}

TEST(LatticeScale, FindsAScaleWhereverTryingThemAllDoes) {
  std::mt19937 random(3);
  MagnitudeSet set;
  int with = 0, without = 0;
  for (int i = 0; i < 1500; ++i) {
    const DType dtype = kDTypes[i % 3];
    const float scale = std::ldexp(1.0f + static_cast<float>(random() % 100000) / 100000.0f, static_cast<int>(random() % 12) - 8);
    const int levels = 1 << (2 + random() % 4), count = 2 + static_cast<int>(random() % 6);
    std::vector<float> weights;
    for (int n = 0; n < count; ++n) {
      float weight = scale * static_cast<float>(static_cast<int>(random() % static_cast<unsigned>(levels)) - levels / 2);
      if (i % 2 == 1) weight += weight * static_cast<float>(random() % 1000) * 1e-6f;  // off the lattice, mostly
      weights.push_back(std::bit_cast<float>(reference::rounded(weight, dtype)));
    }
    set.clear();
    for (const float weight : weights) ASSERT_TRUE(set.add(std::bit_cast<std::uint32_t>(weight)));
    const auto fit = set.fit(dtype);
    if (dtype == DType::F32) {
      ASSERT_EQ(fit.has_value(), reference::any_scale_gives(weights, dtype)) << i;
    } else if (i % 2 == 0) {
      ASSERT_TRUE(fit.has_value()) << i;  // the reference's list of scales is too short for 16 bits
    }
    ++(fit ? with : without);
    if (!fit) continue;
    for (const std::uint32_t bits : {fit->scales.low, fit->scales.high}) {
      for (const float weight : weights) {
        if (weight == 0) continue;
        const int k = set.multiple(std::bit_cast<std::uint32_t>(weight));
        ASSERT_EQ(reference::rounded(std::bit_cast<float>(bits) * static_cast<float>(k), dtype), std::bit_cast<std::uint32_t>(weight));
      }
    }
  }
  EXPECT_GT(with, 700);
  EXPECT_GT(without, 100);
}

TEST(Lattice, OneForEachRow) {
  std::mt19937 random(4);
  ThreadPool pool(2);
  for (const DType dtype : kDTypes) {
    for (const int bits : {2, 3, 4, 5, 6, 7, 8}) {
      if (dtype == DType::BF16 && bits > 6) continue;
      for (const double sparsity : {0.0, 0.5, 0.95}) {
        for (const bool symmetric : {false, true}) {
          LatticeRecipe recipe;
          recipe.cols = 200;
          recipe.bits_of_column.assign(200, bits);
          recipe.sparsity = sparsity;
          recipe.symmetric = symmetric;
          const Tensor source = matrix_of(fake_quantized(recipe, random), recipe.rows, recipe.cols, dtype);
          const Lattice lattice = find_lattice(source, "w", pool);
          expect_exact(source, lattice);
          EXPECT_EQ(lattice.kind, "row");
          ASSERT_EQ(lattice.bits_of_group.size(), 1u);
          EXPECT_LE(lattice.bits_of_group[0], bits == 5 ? 6 : bits == 7 ? 8 : bits);
          if (sparsity == 0 && !symmetric) {
            EXPECT_EQ(lattice.bits_of_group[0], bits == 5 ? 6 : bits == 7 ? 8 : bits);
          }
          EXPECT_EQ(lattice.zeros, static_cast<std::uint64_t>(count_zeros(source, "w")));
          if (sparsity == 0.5 && bits > 2) {
            EXPECT_TRUE(lattice.masked);
          }
        }
      }
    }
  }
}

TEST(Lattice, RunsOfColumns) {
  std::mt19937 random(5);
  ThreadPool pool(2);
  for (const DType dtype : kDTypes) {
    for (const std::int64_t run : {32, 64, 128}) {
      for (const int bits : {3, 4, 8}) {
        if (dtype != DType::F32 && bits == 8) continue;
        LatticeRecipe recipe;
        recipe.rows = 40;
        recipe.cols = 3 * run + 40;  // the last run is shorter
        recipe.group_size = run;
        recipe.bits_of_column.assign(static_cast<std::size_t>(recipe.cols), bits);
        recipe.sparsity = 0.1;
        const Tensor source = matrix_of(fake_quantized(recipe, random), recipe.rows, recipe.cols, dtype);
        const Lattice lattice = find_lattice(source, "w", pool);
        expect_exact(source, lattice);
        EXPECT_EQ(lattice.kind, "groups") << bits << " bits, runs of " << run;
        EXPECT_EQ(lattice.group_size, run);
        EXPECT_EQ(lattice.bits_of_group[0], bits);
      }
    }
  }
}

TEST(Lattice, WidthsMixedByColumn) {
  std::mt19937 random(6);
  ThreadPool pool(2);
  for (const DType dtype : kDTypes) {
    for (int trial = 0; trial < 6; ++trial) {
      LatticeRecipe recipe;
      recipe.rows = 96;
      recipe.cols = 160;
      constexpr int widths[] = {2, 3, 4, 6, 8};
      for (std::int64_t c = 0; c < recipe.cols; ++c)
        recipe.bits_of_column.push_back(widths[random() % (trial < 3 ? 5 : 3) + (trial < 3 ? 0 : 2)]);
      recipe.sparsity = trial % 2 == 0 ? 0.05 : 0.5;
      const Tensor source = matrix_of(fake_quantized(recipe, random), recipe.rows, recipe.cols, dtype);
      const Lattice lattice = find_lattice(source, "w", pool);
      expect_exact(source, lattice);
      EXPECT_EQ(lattice.kind, "mixed");
      const PackedMatrix m = unpack(*lattice.packed, "w");
      for (std::size_t c = 0; c < m.group_of_column.size(); ++c)
        EXPECT_EQ(m.bits_of_group[m.group_of_column[c]], recipe.bits_of_column[c]) << "column " << c << ", " << dtype_name(dtype);
    }
  }
}

// Every group of columns has its own minimum and maximum in each row, as scripts leave them that quantize group by group.
TEST(Lattice, GroupsAnywhereWithScalesOfTheirOwn) {
  std::mt19937 random(12);
  ThreadPool pool(2);
  for (const DType dtype : {DType::F32, DType::F16}) {
    for (const double sparsity : {0.0, 0.5}) {
      const std::vector<int> bits = dtype == DType::F32 ? std::vector<int>{3, 8, 4, 4, 6} : std::vector<int>{3, 4, 4, 2};
      std::vector<std::vector<float>> parts;
      std::vector<std::size_t> group_of_column(40 * bits.size());
      for (std::size_t c = 0; c < group_of_column.size(); ++c) group_of_column[c] = c % bits.size();
      std::shuffle(group_of_column.begin(), group_of_column.end(), random);
      LatticeRecipe recipe;
      recipe.rows = 400;
      recipe.cols = 40;
      recipe.sparsity = sparsity;
      for (const int b : bits) {
        recipe.bits_of_column.assign(40, b);
        parts.push_back(fake_quantized(recipe, random));
      }
      const auto cols = static_cast<std::int64_t>(group_of_column.size());
      std::vector<float> values;
      for (std::int64_t r = 0; r < recipe.rows; ++r) {
        std::vector<std::size_t> next(bits.size());
        for (const std::size_t g : group_of_column) values.push_back(parts[g][static_cast<std::size_t>(r) * 40 + next[g]++]);
      }
      const Tensor source = matrix_of(values, recipe.rows, cols, dtype);
      const Lattice lattice = find_lattice(source, "w", pool);
      SCOPED_TRACE(std::string(dtype_name(dtype)) + ", zeros " + std::to_string(sparsity));
      expect_exact(source, lattice);
      if (!lattice.packed) continue;
      EXPECT_EQ(lattice.kind, "mixed");
      EXPECT_EQ(lattice.bits_of_group.size(), bits.size());
      const PackedMatrix m = unpack(*lattice.packed, "w");
      for (std::size_t c = 0; c < m.group_of_column.size(); ++c)
        EXPECT_EQ(m.bits_of_group[m.group_of_column[c]], bits[group_of_column[c]]) << "column " << c << ", " << dtype_name(dtype);
    }
  }
}

// Scales that are float16 numbers, as block formats and our own methods have them, are stored as such.
TEST(Lattice, HalfScalesAreFound) {
  std::mt19937 random(13);
  ThreadPool pool(1);
  std::vector<float> values;
  for (int set = 0; set < 64 * 4; ++set) {
    const float scale = f16_to_f32(static_cast<std::uint16_t>(0x1800 + random() % 0x1000));
    for (int i = 0; i < 32; ++i) values.push_back(scale * static_cast<float>(static_cast<int>(random() % 16) - 8));
  }
  const Tensor source = matrix_of(values, 64, 128, DType::F32);
  const Lattice lattice = find_lattice(source, "w", pool);
  expect_exact(source, lattice);
  EXPECT_EQ(lattice.group_size, 32);
  EXPECT_EQ(lattice.scale_dtype, DType::F16);
}

TEST(Lattice, OddRows) {
  ThreadPool pool(1);
  std::mt19937 random(7);
  LatticeRecipe recipe;
  recipe.bits_of_column.assign(64, 4);
  const std::vector<float> plain = fake_quantized(recipe, random);
  for (const DType dtype : kDTypes) {
    std::vector<float> values = plain;
    const auto row = [&](std::int64_t r) { return values.begin() + r * 64; };
    std::fill_n(row(0), 64, 0.0f);
    std::fill_n(row(1), 64, 0.37f);
    std::fill_n(row(2), 64, -1.5e-5f);
    std::fill_n(row(3), 64, 0.0f);
    *row(3) = 2.25f;
    for (int i = 0; i < 64; ++i) row(4)[i] = std::ldexp(static_cast<float>(i % 7 - 3), dtype == DType::F16 ? -24 : -133);  // subnormal
    for (int i = 0; i < 64; ++i) row(5)[i] = static_cast<float>(i % 15) * (dtype == DType::F16 ? 4352.0f : 2.0e37f);  // nearly the largest
    for (int i = 0; i < 64; ++i) row(6)[i] = 0.25f * static_cast<float>(i % 4 + 5);                                   // all of one sign
    const Tensor source = matrix_of(values, recipe.rows, recipe.cols, dtype);
    expect_exact(source, find_lattice(source, "w", pool));
  }
}

TEST(Lattice, MinusZerosKeepTheirSign) {
  ThreadPool pool(1);
  std::mt19937 random(8);
  LatticeRecipe recipe;
  recipe.bits_of_column.assign(64, 4);
  for (const bool both : {false, true}) {
    std::vector<float> values = fake_quantized(recipe, random);
    for (std::size_t i = 64; i < 128; ++i) {
      if (values[i] == 0) values[i] = -0.0f;
    }
    values[70] = values[71] = -0.0f;
    if (both) values[72] = 0.0f;
    const Tensor source = matrix_of(values, recipe.rows, recipe.cols, DType::F32);
    const Lattice lattice = find_lattice(source, "w", pool);
    expect_exact(source, lattice);
    EXPECT_TRUE(lattice.masked || !both);
  }
}

TEST(Lattice, TrainedMatricesHaveNone) {
  std::mt19937 random(9);
  ThreadPool pool(2);
  for (const DType dtype : kDTypes) {
    for (const auto& [rows, cols] : {std::pair{16, 512}, {300, 64}, {64, 17}, {40, 3}, {64, 1}, {1, 64}}) {
      for (const double sparsity : {0.0, 0.5, 0.9}) {
        std::normal_distribution<float> normal(0, 0.02f);
        std::uniform_real_distribution<double> uniform(0, 1);
        std::vector<float> values(static_cast<std::size_t>(rows * cols));
        for (float& value : values) value = uniform(random) < sparsity ? 0.0f : normal(random);
        const Lattice lattice = find_lattice(matrix_of(values, rows, cols, dtype), "w", pool);
        EXPECT_FALSE(lattice.packed) << dtype_name(dtype) << " " << rows << " x " << cols << ", zeros " << sparsity << ": " << lattice.kind;
        EXPECT_FALSE(lattice.reason.empty());
      }
    }
  }
}

TEST(Lattice, OneElementOffIsRefusedOrExact) {
  std::mt19937 random(10);
  ThreadPool pool(1);
  for (int trial = 0; trial < 60; ++trial) {
    LatticeRecipe recipe;
    recipe.bits_of_column.assign(64, trial % 2 == 0 ? 4 : 8);
    if (trial % 3 == 0) recipe.group_size = 32;
    std::vector<float> values = fake_quantized(recipe, random);
    float& value = values[random() % values.size()];
    value = std::nextafter(value, 1.0f);
    const Tensor source = matrix_of(values, recipe.rows, recipe.cols, DType::F32);
    const Lattice lattice = find_lattice(source, "w", pool);
    if (lattice.packed) expect_exact(source, lattice);
  }
}

TEST(Lattice, WhatIsNoMatrixOfFloatsGetsAReason) {
  ThreadPool pool(1);
  std::vector<float> values(64 * 64, 0.5f);
  values[100] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(find_lattice(matrix_of(values, 64, 64, DType::F32), "w", pool).reason.find("row 1 holds NaN"), std::string::npos);
  values[100] = -std::numeric_limits<float>::infinity();
  for (const DType dtype : kDTypes) EXPECT_FALSE(find_lattice(matrix_of(values, 64, 64, dtype), "w", pool).packed);
  EXPECT_FALSE(find_lattice(dense_tensor(DType::F32, {4}, Blob(std::vector<std::uint8_t>(16))), "w", pool).packed);
  EXPECT_FALSE(find_lattice(dense_tensor(DType::F32, {0, 4}, Blob()), "w", pool).packed);
  EXPECT_FALSE(find_lattice(dense_tensor(DType::F64, {1, 1}, Blob(std::vector<std::uint8_t>(8))), "w", pool).packed);
}

TEST(Lattice, SameBytesAtAnyNumberOfThreads) {
  std::mt19937 random(11);
  LatticeRecipe recipe;
  recipe.rows = 200;
  recipe.bits_of_column.assign(64, 3);
  recipe.sparsity = 0.5;
  const Tensor source = matrix_of(fake_quantized(recipe, random), recipe.rows, recipe.cols, DType::F16);
  ThreadPool one(1), five(5);
  const Lattice a = find_lattice(source, "w", one), b = find_lattice(source, "w", five);
  ASSERT_TRUE(a.packed && b.packed);
  ASSERT_EQ(a.packed->sections.size(), b.packed->sections.size());
  for (const auto& [name, section] : a.packed->sections)
    EXPECT_TRUE(std::ranges::equal(section.bytes(), b.packed->sections.at(name).bytes()));
  std::vector<float> values(200 * 64, 1.0f);
  for (std::size_t i = 64; i < values.size(); i += 64) values[i] = std::nextafter(1.0f, 0.0f);
  const Tensor broken = matrix_of(values, 200, 64, DType::F32);
  EXPECT_EQ(find_lattice(broken, "w", one).reason, find_lattice(broken, "w", five).reason);
}

}  // namespace
}  // namespace miq
