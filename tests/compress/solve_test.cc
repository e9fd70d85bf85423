// What a site's results say about themselves, against plain computations.
#include "miq/compress/solve.h"

#include <gtest/gtest.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>

#include <random>

namespace miq {
namespace {

at::Tensor random_matrix(std::int64_t rows, std::int64_t cols, unsigned seed) {
  at::Tensor matrix = at::empty({rows, cols}, at::kFloat);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (std::int64_t i = 0; i < rows * cols; ++i) matrix.mutable_data_ptr<float>()[i] = normal(random) * (1 + 0.1f * static_cast<float>(i % cols));
  return matrix;
}

TEST(SolvePlace, ReportsTheShareOfTheOutputsThatWasLost) {
  ThreadPool pool(2);
  const std::int64_t cols = 96;
  Config config;
  config.hidden = cols;
  HessianSum sum(cols);
  const at::Tensor inputs = random_matrix(400, cols, 1);
  sum.add({{inputs}}, pool);
  InputStatistics statistics;
  statistics.hessian = sum.mean();
  statistics.tokens = sum.tokens();
  const at::Tensor weights = random_matrix(40, cols, 2);
  for (double sparsity : {0.0, 0.5}) {
    for (int width : {0, 4}) {
      if (sparsity == 0 && width == 0) continue;
      for (ComputeType compute : {ComputeType::Float32, ComputeType::BFloat16}) {
        CompressOptions options;
        options.compute = compute;
        if (sparsity > 0) options.sparsity = sparsity;
        if (width) options.wbits = width;
        const MatrixJob job{"q", weights, nullptr};
        const MatrixResult result = solve_place(resolve(options, config), {{job}}, statistics, nullptr, pool).front();
        const double expected = output_error(weights, result.values, statistics.hessian, pool) /
                                output_error(weights, at::zeros_like(weights), statistics.hessian, pool);
        EXPECT_NEAR(result.error, expected, 0.01 * expected) << sparsity << " " << width;
        EXPECT_GT(result.error, 0);
      }
    }
  }
}

TEST(SolvePlace, FallsBackToNearestWhereNothingWasSeen) {
  ThreadPool pool(1);
  Config config;
  config.hidden = 16;
  InputStatistics statistics;
  statistics.tokens = 5;
  statistics.hessian = at::zeros_like(random_matrix(16, 16, 1));
  const MatrixJob job{"q", random_matrix(8, 16, 2), nullptr};
  for (const char* method : {"sparsegpt", "enhanced"}) {
    CompressOptions options;
    options.method = method;
    options.wbits = 4;
    options.sparsity = 0.5;
    const MatrixResult result = solve_place(resolve(options, config), {{job}}, statistics, nullptr, pool).front();
    EXPECT_TRUE(result.fallback);
    ASSERT_TRUE(result.packed);
    EXPECT_EQ(result.packed->cols, 16);
  }
}

}  // namespace
}  // namespace miq
