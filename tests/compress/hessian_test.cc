#include "miq/compress/hessian.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "miq/base/error.h"
#include "tests/compress/solver_inputs.h"

namespace miq {
namespace {

TEST(HessianSum, IsTheMeanOuterProductWhateverTheBatches) {
  const std::int64_t n = 83, tokens = 60;
  const at::Tensor inputs = random_inputs(tokens, n, 2);
  const float* x = inputs.const_data_ptr<float>();
  const at::Tensor parts[] = {inputs.narrow(0, 0, 25).contiguous(), inputs.narrow(0, 25, 35).contiguous()};
  at::Tensor first;
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    HessianSum sum(n);
    sum.add(parts, pool);
    EXPECT_EQ(sum.tokens(), tokens);
    const at::Tensor mean = sum.mean();
    if (!first.defined()) first = mean;
    EXPECT_EQ(std::memcmp(mean.const_data_ptr(), first.const_data_ptr(), mean.nbytes()), 0);
  }
  const float* h = first.const_data_ptr<float>();
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      double expected = 0, size = 0;
      for (std::int64_t t = 0; t < tokens; ++t) {
        expected += static_cast<double>(x[t * n + i]) * x[t * n + j] / tokens;
        size += std::fabs(static_cast<double>(x[t * n + i]) * x[t * n + j]) / tokens;
      }
      EXPECT_NEAR(h[i * n + j], expected, 1e-5 * size);
    }
  }
}

TEST(HessianSum, MultipliesBfloat16Exactly) {
  ThreadPool pool(2);
  for (std::int64_t n : {64, 200, 333}) {
    for (std::int64_t tokens : {1, 2, 31, 128}) {
      const at::Tensor half = random_inputs(tokens, n, 3).to(at::kBFloat16);
      HessianSum narrow(n), wide(n);
      const at::Tensor narrow_inputs[] = {half}, wide_inputs[] = {half.to(at::kFloat)};
      narrow.add(narrow_inputs, pool);
      wide.add(wide_inputs, pool);
      const at::Tensor a = narrow.mean(), b = wide.mean();
      const float *p = a.const_data_ptr<float>(), *q = b.const_data_ptr<float>();
      for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t j = 0; j < n; ++j) EXPECT_NEAR(p[i * n + j], q[i * n + j], 1e-5 * std::sqrt(q[i * n + i] * q[j * n + j]) + 1e-30);
      }
    }
  }
}

TEST(HessianSum, NamesABadInput) {
  ThreadPool pool(2);
  HessianSum sum(8);
  at::Tensor bad = random_matrix(4, 8, 1);
  bad.mutable_data_ptr<float>()[9] = std::numeric_limits<float>::infinity();
  const at::Tensor inputs[] = {random_matrix(4, 8, 1), bad};
  try {
    sum.add(inputs, pool);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("input 1"), std::string::npos) << error.what();
  }
  const at::Tensor misfit[] = {random_matrix(4, 9, 1)};
  EXPECT_THROW(sum.add(misfit, pool), Error);
  EXPECT_THROW(HessianSum(8).mean(), Error);
}

// U^T U times the damped H is the identity, in sweep order.
void expect_factor(const at::Tensor& hessian, const InverseFactor& factor) {
  const std::int64_t n = factor.size();
  const float* h = hessian.const_data_ptr<float>();
  const float* u = factor.upper.const_data_ptr<float>();
  double mean = 0;
  for (std::int64_t j = 0; j < n; ++j) mean += h[j * n + j] / static_cast<double>(n);
  for (std::int64_t i = 0; i < n; ++i) {
    double diagonal = 0;
    for (std::int64_t k = 0; k <= i; ++k) diagonal += static_cast<double>(u[k * n + i]) * u[k * n + i] / factor.scale;
    EXPECT_NEAR(factor.inverse_diagonal[factor.order[i]], diagonal, 1e-4 * diagonal);
    for (std::int64_t j = 0; j < i; ++j) EXPECT_EQ(u[i * n + j], 0);
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (std::int64_t k = 0; k < n; ++k) {
        double inverse = 0;
        for (std::int64_t l = 0; l <= std::min(i, k); ++l) inverse += static_cast<double>(u[l * n + i]) * u[l * n + k] / factor.scale;
        sum += inverse * (h[factor.order[k] * n + factor.order[j]] + (k == j ? factor.damping * mean : 0));
      }
      EXPECT_NEAR(sum, i == j ? 1 : 0, 1e-2) << i << " " << j;
    }
  }
}

TEST(FactorInverse, InvertsInAnyOrder) {
  ThreadPool pool(2);
  for (float unit : {1.0f, 1e-12f, 1e12f}) {
    const at::Tensor hessian = hessian_of(random_inputs(400, 50, 5).mul_(unit), pool);
    for (const auto& order : {natural_order(50), order_by_diagonal(hessian)}) {
      const auto factor = factor_inverse(hessian, order, {}, pool);
      ASSERT_TRUE(factor);
      EXPECT_EQ(factor->damping, 0.01);
      expect_factor(hessian, *factor);
    }
  }
}

TEST(FactorInverse, LargeEnoughToBeCutInHalves) {
  ThreadPool pool(2);
  const at::Tensor hessian = hessian_of(random_inputs(400, 150, 5), pool);
  expect_factor(hessian, *factor_inverse(hessian, natural_order(150), {}, pool));
}

TEST(FactorInverse, RaisesDampingForAMatrixThatIsNotPositive) {
  ThreadPool pool(1);
  at::Tensor hessian = hessian_of(random_inputs(400, 20, 5), pool);
  float* h = hessian.mutable_data_ptr<float>();
  double mean = 0;
  for (int j = 0; j < 20; ++j) mean += h[j * 20 + j] / 20;
  for (int i = 0; i < 20; ++i)
    for (int j = 0; j < 20; ++j) h[i * 20 + j] = i == j ? static_cast<float>(mean) : 0;
  h[1] = h[20] = static_cast<float>(1.05 * mean);  // eigenvalue 1 - 1.05 of the mean
  const auto factor = factor_inverse(hessian, natural_order(20), {}, pool);
  ASSERT_TRUE(factor);
  EXPECT_DOUBLE_EQ(factor->damping, 0.1);
  expect_factor(hessian, *factor);
  h[1] = h[20] = static_cast<float>(4 * mean);  // no rung helps
  EXPECT_FALSE(factor_inverse(hessian, natural_order(20), {}, pool));
}

TEST(FactorInverse, RefusesWhatHasNoInverse) {
  ThreadPool pool(1);
  at::Tensor hessian = hessian_of(random_inputs(40, 6, 5), pool);
  EXPECT_THROW(factor_inverse(hessian, natural_order(5), {}, pool), Error);
  EXPECT_THROW(factor_inverse(hessian, std::vector<std::int64_t>{0, 1, 2, 3, 4, 4}, {}, pool), Error);
  hessian.mutable_data_ptr<float>()[3] = NAN;
  EXPECT_FALSE(factor_inverse(hessian, natural_order(6), {}, pool));
  hessian.zero_();
  EXPECT_FALSE(factor_inverse(hessian, natural_order(6), {}, pool));
}

TEST(FactorInverse, DeadColumnsStandAlone) {
  ThreadPool pool(1);
  at::Tensor inputs = random_inputs(40, 6, 5);
  for (int t = 0; t < 40; ++t) inputs.mutable_data_ptr<float>()[t * 6 + 2] = 0;
  const at::Tensor hessian = hessian_of(inputs, pool);
  for (DeadColumns dead : {DeadColumns::Zero, DeadColumns::Keep}) {
    const auto factor = factor_inverse(hessian, natural_order(6), {0.01, dead}, pool);
    ASSERT_TRUE(factor);
    EXPECT_EQ(factor->dead, (std::vector<std::uint8_t>{0, 0, 1, 0, 0, 0}));
    const float* u = factor->upper.const_data_ptr<float>();
    for (int j = 3; j < 6; ++j) EXPECT_EQ(u[2 * 6 + j], 0);
    for (int i = 0; i < 2; ++i) EXPECT_EQ(u[i * 6 + 2], 0);
  }
}

TEST(OutputError, IsTheSquaredErrorOfTheOutputs) {
  ThreadPool pool(2);
  const std::int64_t n = 20, rows = 70, tokens = 50;
  const at::Tensor inputs = random_inputs(tokens, n, 5), a = random_matrix(rows, n, 1), b = random_matrix(rows, n, 2);
  const float *x = inputs.const_data_ptr<float>(), *p = a.const_data_ptr<float>(), *q = b.const_data_ptr<float>();
  double expected = 0;
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t r = 0; r < rows; ++r) {
      double y = 0;
      for (std::int64_t j = 0; j < n; ++j) y += static_cast<double>(p[r * n + j] - q[r * n + j]) * x[t * n + j];
      expected += y * y / tokens;
    }
  }
  EXPECT_NEAR(output_error(a, b, hessian_of(inputs, pool), pool), expected, 1e-4 * expected);
}

}  // namespace
}  // namespace miq
