// Structured removal: the fit against its normal equations, the plan against its promises.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "miq/compress/structure.h"
#include "miq/compress/structure_parts.h"

namespace miq {
namespace {

TEST(RemovalFit, SolvesItsNormalEquations) {
  const std::int64_t n = 24, rows = 9;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> w(static_cast<std::size_t>(rows * n)), x(static_cast<std::size_t>(n * 100)), h(static_cast<std::size_t>(n * n));
  for (float& value : w) value = normal(random);
  for (float& value : x) value = normal(random);
  for (std::int64_t t = 0; t < 100; ++t) x[static_cast<std::size_t>(t * n + 3)] = 0.9f * x[static_cast<std::size_t>(t * n + 4)];
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      for (std::int64_t t = 0; t < 100; ++t)
        h[static_cast<std::size_t>(i * n + j)] += x[static_cast<std::size_t>(t * n + i)] * x[static_cast<std::size_t>(t * n + j)] / 100;
    }
  }
  std::vector<std::int64_t> kept;
  for (std::int64_t i = 0; i < n; ++i) {
    if (i % 5 != 3) kept.push_back(i);
  }
  const at::Tensor weights = at::from_blob(w.data(), {rows, n}, at::TensorOptions(at::kFloat));
  const at::Tensor hessian = at::from_blob(h.data(), {n, n}, at::TensorOptions(at::kFloat));
  ThreadPool pool(2);
  const FittedColumns fitted = fit_columns(weights, hessian, kept, 0.01, true, pool),
                      plain = fit_columns(weights, hessian, kept, 0.01, false, pool);
  EXPECT_TRUE(fitted.fitted);
  EXPECT_LT(fitted.error, plain.error);
  double mean = 0;
  for (const std::int64_t k : kept) mean += h[static_cast<std::size_t>(k * n + k)] / static_cast<double>(kept.size());
  const float* got = fitted.weights.const_data_ptr<float>();
  const auto count = static_cast<std::int64_t>(kept.size());
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t j = 0; j < count; ++j) {
      double left = 0, right = 0.01 * mean * w[static_cast<std::size_t>(r * n + kept[static_cast<std::size_t>(j)])];
      for (std::int64_t i = 0; i < count; ++i) {
        left +=
            got[r * count + i] * (h[static_cast<std::size_t>(kept[static_cast<std::size_t>(i)] * n + kept[static_cast<std::size_t>(j)])] +
                                  (i == j ? 0.01 * mean : 0));
      }
      for (std::int64_t i = 0; i < n; ++i)
        right += w[static_cast<std::size_t>(r * n + i)] * h[static_cast<std::size_t>(i * n + kept[static_cast<std::size_t>(j)])];
      EXPECT_NEAR(left, right, 1e-4);
    }
  }
}

LayerParts parts_of(std::vector<double> groups, std::vector<double> channels, bool whole = false) {
  LayerParts layer;
  layer.whole = whole;
  layer.group_weights = 100;
  layer.channel_weights = 3;
  layer.weights = 100 * static_cast<std::int64_t>(groups.size()) + 3 * static_cast<std::int64_t>(channels.size());
  layer.group_scores = std::move(groups);
  layer.channel_scores = std::move(channels);
  return layer;
}

TEST(RemovalPlan, KeepsTheBudgetTheFloorsAndTheBest) {
  std::mt19937 random(11);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<LayerParts> layers;
    const std::size_t widths[] = {16, 40, 37};
    std::int64_t all = 0;
    for (int l = 0; l < 4; ++l) {
      std::vector<double> groups(1 + random() % 4), channels(widths[random() % 3]);
      for (double& score : groups) score = std::ldexp(static_cast<double>(random()), -20);
      for (double& score : channels) score = std::ldexp(static_cast<double>(random()), -25);
      layers.push_back(parts_of(groups, channels, l == 0));
      all += layers.back().weights;
    }
    const double sparsity = static_cast<double>(random() % 100) / 100;
    for (const SparsityAllocation allocation : {SparsityAllocation::Even, SparsityAllocation::Global}) {
      const auto kept = plan_removal(layers, sparsity, allocation);
      std::int64_t removed = 0;
      bool more = false;  // something that fits could still go
      const double budget = sparsity * static_cast<double>(all);
      for (std::size_t l = 0; l < layers.size(); ++l) {
        const std::int64_t groups = static_cast<std::int64_t>(layers[l].group_scores.size() - kept[l].groups.size());
        const std::int64_t channels = static_cast<std::int64_t>(layers[l].channel_scores.size() - kept[l].channels.size());
        removed += 100 * groups + 3 * channels;
        EXPECT_GE(kept[l].groups.size(), 1u);
        EXPECT_GE(8 * kept[l].channels.size(), layers[l].channel_scores.size());
        if (layers[l].whole) {
          EXPECT_EQ(groups + channels, 0);
        }
        if (layers[l].channel_scores.size() % 8 == 0) {
          EXPECT_EQ(channels % 8, 0);
        }
        // Nothing that went is worth more than what stayed of its kind.
        for (std::size_t c = 0; c < layers[l].channel_scores.size(); ++c) {
          if (std::binary_search(kept[l].channels.begin(), kept[l].channels.end(), static_cast<std::int64_t>(c))) continue;
          for (const std::int64_t other : kept[l].channels)
            EXPECT_LE(layers[l].channel_scores[c], layers[l].channel_scores[static_cast<std::size_t>(other)]);
        }
      }
      EXPECT_LE(static_cast<double>(removed), budget);
      for (std::size_t l = 0; l < layers.size(); ++l) {
        const auto width = static_cast<std::int64_t>(layers[l].channel_scores.size()),
                   block = width % 8 == 0 ? std::int64_t{8} : std::int64_t{1};
        const std::int64_t least = std::max(block, (width + 7) / 8);
        more |= !layers[l].whole && static_cast<std::int64_t>(kept[l].channels.size()) - block >= least &&
                static_cast<double>(removed + 3 * block) <= budget;
      }
      if (allocation == SparsityAllocation::Global) {
        EXPECT_FALSE(more);
      }
    }
  }
}

TEST(RemovalPlan, EvenLeavesEqualLayersEqual) {
  std::vector<LayerParts> layers;
  std::mt19937 random(2);
  for (int l = 0; l < 5; ++l) {
    std::vector<double> groups(4), channels(64);
    for (double& score : groups) score = static_cast<double>(random());
    for (double& score : channels) score = static_cast<double>(random());
    layers.push_back(parts_of(groups, channels));
  }
  for (const double sparsity : {0.1, 0.25, 0.5, 0.7}) {
    const auto kept = plan_removal(layers, sparsity, SparsityAllocation::Even);
    for (const KeptParts& layer : kept) {
      EXPECT_EQ(layer.groups.size(), kept[0].groups.size());
      EXPECT_EQ(layer.channels.size(), kept[0].channels.size());
    }
  }
  const auto half = plan_removal(layers, 0.5, SparsityAllocation::Even);
  EXPECT_EQ(half[0].groups.size(), 2u);
  EXPECT_EQ(half[0].channels.size(), 32u);
}

}  // namespace
}  // namespace miq
