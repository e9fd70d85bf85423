#include "miq/compress/quantizer.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "miq/base/error.h"
#include "miq/compress/sweep_math.h"
#include "tests/compress/solver_inputs.h"
#include "tests/reference/sweep_reference.h"

namespace miq {
namespace {

TEST(SweepMath, RoundsHalfToEven) {
  for (int i = -10000; i <= 10000; ++i) {
    const float x = static_cast<float>(i) / 4;
    EXPECT_EQ(round_half_even(x), std::nearbyint(x));
  }
  EXPECT_EQ(round_half_even(4096), 4096);
  EXPECT_EQ(round_half_even(-4096), -4096);
}

TEST(SweepMath, RoundsToHalfAsTheFormatDoes) {
  for (std::uint32_t bits = 0x38800000u; bits < 0x477fe000u; bits += 997) {  // 2^-14 … 65504
    float x;
    std::memcpy(&x, &bits, sizeof x);
    ASSERT_EQ(round_to_half(x), f16_to_f32(f32_to_f16(x))) << x;
  }
  EXPECT_EQ(round_to_half(1e-20f), std::ldexp(1.0f, -14));
  EXPECT_EQ(round_to_half(1e20f), 65504.0f);
}

TEST(Quantizer, EqualsTheReference) {
  ThreadPool pool(2);
  for (int bits : {2, 3, 4, 6, 8}) {
    for (std::int64_t size : {0, 16, 7}) {
      for (bool clipped : {false, true}) {
        for (bool half : {false, true}) {
          const std::int64_t rows = 70, cols = 48;
          const at::Tensor weights = random_matrix(rows, cols, bits);
          const ColumnGroups groups = contiguous_groups(cols, size, bits);
          RoundingOptions options;
          if (clipped) options.clips = prediction_clips();
          options.automatic_scale_dtype = half;
          const PackedMatrix packed = round_to_nearest(weights, groups, {}, options, pool);
          EXPECT_EQ(packed.scale_dtype, half ? DType::F16 : DType::F32);
          const at::Tensor values = decode_matrix(packed, pool);
          const std::vector<float> clips = clipped ? std::vector<float>(options.clips.begin(), options.clips.end()) : std::vector<float>{1};
          for (std::int64_t r = 0; r < rows; ++r) {
            for (std::int64_t g = 0; g < groups.groups(); ++g) {
              std::vector<float> row;
              std::vector<std::int64_t> columns;
              for (std::int64_t k = 0; k < cols; ++k) {
                if (groups.group_of_column[k] != g) continue;
                columns.push_back(r * cols + k);
                row.push_back(weights.const_data_ptr<float>()[r * cols + k]);
              }
              const auto grid = reference::find_grid(row, std::vector<float>(row.size(), 1), bits, clips, half);
              for (std::size_t i = 0; i < row.size(); ++i) ASSERT_EQ(values.const_data_ptr<float>()[columns[i]], grid.round(row[i]));
            }
          }
          pack(packed);
        }
      }
    }
  }
}

TEST(Quantizer, CodedScalesEqualTheReference) {
  ThreadPool pool(2);
  for (int scale_bits : {4, 6, 8}) {
    for (bool clipped : {false, true}) {
      const std::int64_t rows = 70, cols = 48;
      const at::Tensor weights = random_matrix(rows, cols, scale_bits);
      float* data = weights.mutable_data_ptr<float>();
      for (std::int64_t k = 0; k < cols; ++k) data[k] = 0;                                        // a row of zeros
      for (std::int64_t k = 16; k < 24; ++k) data[cols + k] = 0, data[2 * cols + k] *= 1e-6f;     // groups of no and of little range
      for (std::int64_t k = 0; k < cols; ++k) data[3 * cols + k] *= 1e-38f, data[4 * cols + k] *= 1e18f;  // subnormal; large
      ColumnGroups groups = contiguous_groups(cols, 8, 4);
      for (std::int64_t g = 0; g < 6; ++g) groups.bits_of_group[g] = std::array<std::uint8_t, 6>{2, 3, 4, 6, 8, 3}[g];
      RoundingOptions options;
      if (clipped) options.clips = prediction_clips();
      options.scale_bits = scale_bits;
      const PackedMatrix packed = round_to_nearest(weights, groups, {}, options, pool);
      const at::Tensor values = decode_matrix(packed, pool);
      const std::vector<float> clips = clipped ? std::vector<float>(options.clips.begin(), options.clips.end()) : std::vector<float>{1};
      std::vector<int> group_of(groups.group_of_column.begin(), groups.group_of_column.end());
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::vector<float> row(data + r * cols, data + (r + 1) * cols);
        const int exponent = reference::exponent_of_row(row, group_of, 6);
        EXPECT_EQ(packed.row_exponents[r], exponent);
        for (std::int64_t g = 0; g < 6; ++g) {
          const std::vector<float> part(row.begin() + g * 8, row.begin() + g * 8 + 8);
          const auto grid = reference::find_grid(part, std::vector<float>(8, 1), groups.bits_of_group[g], clips, false, scale_bits, exponent);
          EXPECT_EQ(packed.scales[g * rows + r], grid.scale);
          EXPECT_EQ(packed.zeros[g * rows + r], grid.zero);
          for (std::size_t i = 0; i < 8; ++i) ASSERT_EQ(values.const_data_ptr<float>()[r * cols + g * 8 + i], grid.round(part[i])) << r << " " << g;
        }
      }
      const PackedMatrix stored = unpack(pack(packed), "w");
      EXPECT_EQ(stored.scales, packed.scales);
      EXPECT_EQ(stored.codes, packed.codes);
    }
  }
}

TEST(Quantizer, PrunedWeightsAreZeroAndDoNotStretchTheGrid) {
  ThreadPool pool(1);
  at::Tensor weights = random_matrix(3, 8, 1, 0.1f);
  weights.mutable_data_ptr<float>()[2] = 100;
  std::vector<std::uint8_t> kept(24, 1);
  kept[2] = 0;
  const PackedMatrix packed = round_to_nearest(weights, contiguous_groups(8, 0, 4), kept, {}, pool);
  EXPECT_LT(packed.scales[0], 0.1f);
  EXPECT_EQ(decode_matrix(packed, pool).const_data_ptr<float>()[2], 0.0f);
}

TEST(Quantizer, TakesWiderScalesForTinyAndHugeWeights) {
  ThreadPool pool(1);
  for (float unit : {1e-8f, 1e7f, 1e-30f, 1e30f}) {
    const at::Tensor weights = random_matrix(70, 32, 1, unit);
    const PackedMatrix packed = round_to_nearest(weights, contiguous_groups(32, 16, 4), {}, {}, pool);
    EXPECT_EQ(packed.scale_dtype, DType::F32);
    const at::Tensor values = decode_matrix(packed, pool);
    for (std::int64_t i = 0; i < 70 * 32; ++i) {
      EXPECT_NEAR(values.const_data_ptr<float>()[i], weights.const_data_ptr<float>()[i], 0.3 * unit);
    }
  }
}

TEST(Quantizer, RefusesBadInput) {
  ThreadPool pool(1);
  EXPECT_THROW(contiguous_groups(8, 4, 5), UsageError);
  EXPECT_THROW(contiguous_groups(8, -1, 4), UsageError);
  EXPECT_THROW(contiguous_groups(70000, 1, 4), Error);
  ColumnGroups groups = contiguous_groups(8, 4, 4);
  groups.group_of_column[3] = 2;
  EXPECT_THROW(check_groups(groups, 8), Error);
  EXPECT_THROW(check_groups(contiguous_groups(8, 4, 4), 9), Error);
  at::Tensor weights = random_matrix(3, 8, 1);
  weights.mutable_data_ptr<float>()[7] = NAN;
  EXPECT_THROW(round_to_nearest(weights, contiguous_groups(8, 4, 4), {}, {}, pool), Error);
}

}  // namespace
}  // namespace miq
