// Layers as no model should have them, through the methods as the driver calls them: what calibration may bring (ranks of one, dead and
// massive channels, units from 1e-15 to 1e9, fewer tokens than channels, nothing at all) times what weights may be (constant rows, zeros,
// a single spike, subnormals, 1e18). Whatever happens, every value and scale is finite, the mask has its count, a fallback says so, and the
// outputs are no worse than with the nearest values of the same groups.
#include <gtest/gtest.h>

#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>

#include "miq/base/error.h"
#include "miq/compress/quantizer.h"
#include "miq/compress/solve.h"
#include "tests/compress/solver_inputs.h"

namespace miq {
namespace {

constexpr std::int64_t kRows = 24, kCols = 64;

struct Inputs {
  const char* name;
  std::int64_t tokens;
  void (*change)(float* row, const float* first, std::int64_t token);
};
constexpr Inputs kInputs[] = {
    {"plain", 200, [](float*, const float*, std::int64_t) {}},
    {"fewer tokens than channels", 5, [](float*, const float*, std::int64_t) {}},
    {"one token", 1, [](float*, const float*, std::int64_t) {}},
    {"one token again and again", 100, [](float* row, const float* first, std::int64_t t) { if (t > 0) std::copy(first, first + kCols, row); }},
    {"rank three, copies", 200, [](float* row, const float*, std::int64_t) { for (std::int64_t j = 0; j < kCols; ++j) row[j] = row[j % 3]; }},
    {"a quarter dead", 200, [](float* row, const float*, std::int64_t) { for (std::int64_t j = 0; j < kCols; j += 4) row[j] = 0; }},
    {"all but one dead", 200, [](float* row, const float*, std::int64_t) { std::fill(row + 1, row + kCols, 0.0f); }},
    {"all dead", 50, [](float* row, const float*, std::int64_t) { std::fill(row, row + kCols, 0.0f); }},
    {"constant", 100, [](float* row, const float*, std::int64_t) { std::fill(row, row + kCols, 1.0f); }},
    {"one massive channel", 200, [](float* row, const float*, std::int64_t) { row[7] *= 1e6f; }},
    {"twelve decades", 200, [](float* row, const float*, std::int64_t) { for (std::int64_t j = 0; j < kCols; ++j) row[j] *= std::pow(10.0f, static_cast<float>(j % 13) - 6); }},
    {"tiny", 200, [](float* row, const float*, std::int64_t) { for (std::int64_t j = 0; j < kCols; ++j) row[j] *= 1e-15f; }},
    {"huge", 200, [](float* row, const float*, std::int64_t) { for (std::int64_t j = 0; j < kCols; ++j) row[j] *= 1e9f; }},
    {"one token in a hundred", 200, [](float* row, const float*, std::int64_t t) { if (t % 100) std::fill(row, row + kCols, 0.0f); }},
};

struct Weights {
  const char* name;
  void (*change)(float* w, std::int64_t row, std::int64_t col);
};
constexpr Weights kWeights[] = {
    {"plain", [](float*, std::int64_t, std::int64_t) {}},
    {"constant rows", [](float* w, std::int64_t row, std::int64_t) { *w = 0.1f * static_cast<float>(row - 5); }},
    {"zero", [](float* w, std::int64_t, std::int64_t) { *w = 0; }},
    {"zero rows", [](float* w, std::int64_t row, std::int64_t) { if (row % 3 == 0) *w = 0; }},
    {"one spike", [](float* w, std::int64_t row, std::int64_t col) { if (row == 3 && col == 5) *w = 1e6f; }},
    {"subnormal", [](float* w, std::int64_t, std::int64_t) { *w *= 1e-40f; }},
    {"huge", [](float* w, std::int64_t, std::int64_t) { *w *= 1e8f; }},
    {"two values", [](float* w, std::int64_t, std::int64_t) { *w = *w > 0 ? 0.5f : -0.25f; }},
    {"one sign", [](float* w, std::int64_t, std::int64_t) { *w = std::abs(*w) + 3; }},
};

InputStatistics statistics_of(const Inputs& inputs, ThreadPool& pool) {
  at::Tensor x = random_inputs(inputs.tokens, kCols, 77);
  float* data = x.mutable_data_ptr<float>();
  for (std::int64_t t = 0; t < inputs.tokens; ++t) inputs.change(data + t * kCols, data, t);
  InputStatistics statistics;
  statistics.tokens = inputs.tokens;
  statistics.hessian = hessian_of(x, pool);
  accumulate(statistics.channels, x, pool);
  return statistics;
}

at::Tensor weights_of(const Weights& weights) {
  at::Tensor w = random_matrix(kRows, kCols, 3, 0.05f);
  float* data = w.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < kRows * kCols; ++i) weights.change(data + i, i / kCols, i % kCols);
  return w;
}

void expect_finite(const at::Tensor& values) {
  const float* data = values.const_data_ptr<float>();
  for (std::int64_t i = 0; i < values.numel(); ++i) ASSERT_TRUE(std::isfinite(data[i])) << "value " << i;
}

// No worse than the nearest values of the same groups and mask; the last bits of a float32 Hessian are forgiven.
void expect_no_worse_than_nearest(const MatrixResult& result, const at::Tensor& weights, const at::Tensor& hessian, ThreadPool& pool) {
  const PackedMatrix& packed = *result.packed;
  const ColumnGroups groups{packed.group_of_column, packed.bits_of_group};
  RoundingOptions options;
  options.automatic_scale_dtype = packed.scale_dtype != DType::F32;
  const at::Tensor nearest = decode_matrix(round_to_nearest(weights, groups, packed.kept, options, pool), pool);
  const double whole = output_error(weights, at::zeros({kRows, kCols}), hessian, pool);
  EXPECT_LE(output_error(weights, result.values, hessian, pool), 1.001 * output_error(weights, nearest, hessian, pool) + 1e-9 * whole);
}

class LayerTorture : public testing::TestWithParam<const char*> {};

TEST_P(LayerTorture, StaysFiniteAndNoWorseThanNearest) {
  ThreadPool pool(1);
  Config config;
  config.hidden = kCols;
  CompressOptions options;
  options.method = GetParam();
  const bool sparse = options.method == std::string("sparsegpt");
  options.wbits = 4;
  if (sparse) options.sparsity = 0.5;
  const Recipe recipe = resolve(options, config);
  int layers = 0, fallbacks = 0;
  for (const Inputs& inputs : kInputs) {
    const InputStatistics statistics = statistics_of(inputs, pool);
    for (const Weights& weights : kWeights) {
      SCOPED_TRACE(std::string(GetParam()) + ": inputs " + inputs.name + ", weights " + weights.name);
      const MatrixJob job{"q", weights_of(weights), nullptr};
      const MatrixResult result = solve_place(recipe, {{job}}, statistics, nullptr, pool).front();
      ++layers;
      fallbacks += result.fallback;
      expect_finite(result.values);
      EXPECT_TRUE(std::isfinite(result.error) && result.error >= 0) << result.error;
      ASSERT_TRUE(result.packed);
      for (const float scale : result.packed->scales) ASSERT_TRUE(std::isfinite(scale) && scale > 0) << scale;
      if (std::string(inputs.name) == "all dead") {
        EXPECT_EQ(result.fallback, needs_hessian(recipe));
      }
      if (std::string(inputs.name) == "plain") {
        EXPECT_FALSE(result.fallback);
      }
      if (sparse) {
        std::int64_t kept = 0;
        for (const std::uint8_t bit : result.packed->kept) kept += bit;
        // SparseGPT's rule: everything at the threshold goes, so equal saliencies (zeros, subnormals) all do.
        EXPECT_LE(kept, kRows * kCols / 2);
        if (std::string(weights.name) == "plain" && std::string(inputs.name) == "plain") {
          EXPECT_GE(kept, kRows * kCols / 2 - 2);
        }
      }
      if (needs_hessian(recipe)) expect_no_worse_than_nearest(result, job.weights, statistics.hessian, pool);
    }
  }
  EXPECT_EQ(layers, 126);
  if (needs_hessian(recipe)) {
    EXPECT_GE(fallbacks, 9);
  } else {
    EXPECT_EQ(fallbacks, 0);
  }
  RecordProperty("fallbacks", fallbacks);
}

INSTANTIATE_TEST_SUITE_P(Methods, LayerTorture, testing::Values("sparsegpt", "gptq", "enhanced", "rtn"), [](const auto& method) { return std::string(method.param); });

TEST(CalibrationTorture, CalibrationThatIsNotFiniteIsRefusedByItsWindow) {
  ThreadPool pool(1);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    HessianSum sum(kCols);
    const at::Tensor inputs[] = {random_inputs(9, kCols, 1), random_inputs(9, kCols, 2)};
    inputs[1].mutable_data_ptr<float>()[100] = bad;
    try {
      sum.add(inputs, pool);
      FAIL() << "accepted";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find('1'), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace miq
