// Predicted loss tables and the sparsity plan.
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "miq/base/error.h"
#include "miq/compress/predicted_loss.h"
#include "miq/compress/sparsity_plan.h"
#include "tests/reference/predicted_loss.h"

namespace miq {
namespace {

struct Case {
  at::Tensor weight;
  ChannelGroups groups;
  std::vector<double> sensitivity, inverse, energy;
};

Case make_case(std::int64_t rows, std::int64_t columns, std::int64_t group_size, std::uint32_t seed, Grouping kind = Grouping::Random) {
  Case c;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::lognormal_distribution<double> size(0, 1.5);
  c.weight = at::empty({rows, columns}, at::kFloat);
  for (std::int64_t i = 0; i < rows * columns; ++i) c.weight.data_ptr<float>()[i] = 0.05f * normal(random);
  for (std::int64_t r = 0; r < rows; ++r) c.sensitivity.push_back(1e-9 * size(random));
  for (std::int64_t j = 0; j < columns; ++j) c.inverse.push_back(size(random)), c.energy.push_back(size(random));
  ThreadPool pool(1);
  c.groups = group_channels({kind, group_size, 0, seed}, c.energy, {}, pool);
  return c;
}

TEST(PredictedLoss, MatchesTheNaiveTable) {
  const std::vector<int> levels(kBitLevels.begin(), kBitLevels.end());
  ThreadPool pool(2);
  for (std::uint32_t seed = 1; seed < 6; ++seed) {
    Case c = make_case(70 + 13 * seed, 90 + seed, 10 + 9 * seed, seed);
    if (seed == 2)
      for (std::int64_t i = 0; i < 3 * c.weight.size(1); ++i) c.weight.data_ptr<float>()[i] = 0;  // rows of zeros
    if (seed == 3)
      for (std::int64_t i = 0; i < c.weight.numel(); ++i) c.weight.data_ptr<float>()[i] += 0.3f;  // all of one sign
    const auto errors = column_errors(c.weight, c.groups, c.sensitivity, pool);
    const auto naive = reference::column_errors(c.weight.const_data_ptr<float>(), c.weight.size(0), c.groups, c.sensitivity, levels);
    ASSERT_EQ(errors.size(), naive.size());
    const auto n = static_cast<std::size_t>(c.weight.size(1));
    for (std::size_t l = 0; l < levels.size(); ++l) {
      // float32 may round a tie the other way or pick the other of two equal clips: columns agree closely, their sum more so.
      double sum = 0, naive_sum = 0;
      for (std::size_t k = 0; k < n; ++k) {
        EXPECT_NEAR(errors[l * n + k], naive[l * n + k], 0.02 * naive[l * n + k]) << "level " << levels[l] << " column " << k;
        sum += errors[l * n + k], naive_sum += naive[l * n + k];
      }
      EXPECT_NEAR(sum, naive_sum, 1e-3 * naive_sum);
    }
  }
}

TEST(PredictedLoss, GroupSumsAndErrors) {
  ThreadPool pool(1);
  const Case c = make_case(40, 50, 16, 9);
  const auto errors = column_errors(c.weight, c.groups, {}, pool);
  std::vector<double> kept(50);
  for (std::size_t k = 0; k < kept.size(); ++k) kept[k] = 0.01 * static_cast<double>(k);
  const auto losses = group_losses(errors, c.groups, c.energy, kept);
  const auto weights = group_kept(c.groups, 40, kept);
  ASSERT_EQ(losses.size(), 4u * 5u);
  for (std::int64_t g = 0; g < 4; ++g) {
    double loss = 0, count = 0;
    for (std::int64_t k = c.groups.starts[g]; k < c.groups.starts[g + 1]; ++k)
      loss += c.energy[c.groups.order[k]] * kept[k] * errors[2 * 50 + k], count += 40 * kept[k];
    EXPECT_DOUBLE_EQ(losses[g * 5 + 2], loss);
    EXPECT_DOUBLE_EQ(weights[g], count);
    for (int l = 1; l < 5; ++l) EXPECT_LT(losses[g * 5 + l], losses[g * 5 + l - 1]);
  }
  EXPECT_THROW(column_errors(c.weight.t(), c.groups, {}, pool), Error);
  EXPECT_THROW(column_errors(c.weight, c.groups, std::vector<double>(3, 1.0), pool), Error);
  EXPECT_THROW(group_losses(errors, c.groups, kept.empty() ? kept : std::vector<double>(2), {}), Error);
}

std::vector<ScoreHistogram> histograms_of(const std::vector<Case>& cases, ThreadPool& pool) {
  std::vector<ScoreHistogram> all;
  for (const Case& c : cases) all.push_back(score_histogram(c.weight, c.groups, c.sensitivity, c.inverse, pool));
  return all;
}

double score(const Case& c, std::int64_t row, std::int64_t step) {
  const std::int64_t j = c.groups.order[step];
  const double w = c.weight.const_data_ptr<float>()[row * c.weight.size(1) + j];
  return c.sensitivity[row] * w * w / c.inverse[j];
}

TEST(SparsityPlan, PrunesExactlyTheWholeAndFollowsTheThreshold) {
  ThreadPool pool(2);
  const std::vector<Case> cases = {make_case(96, 300, 128, 1, Grouping::Sensitivity), make_case(64, 200, 64, 2), make_case(33, 130, 0, 3)};
  const auto histograms = histograms_of(cases, pool);
  std::vector<double> scores;
  for (const Case& c : cases)
    for (std::int64_t r = 0; r < c.weight.size(0); ++r)
      for (std::int64_t k = 0; k < c.weight.size(1); ++k) scores.push_back(score(c, r, k));
  std::sort(scores.begin(), scores.end());
  for (double s : {0.02, 0.3, 0.5, 0.77, 0.97}) {
    const auto plan = plan_sparsity(histograms, {s, 1.0, 0.0, 1.0});
    const double exact = scores[static_cast<std::size_t>(s * static_cast<double>(scores.size()))];
    EXPECT_NEAR(plan.threshold, exact, 0.05 * exact) << s;
    std::int64_t total = 0;
    for (std::size_t m = 0; m < cases.size(); ++m) {
      const auto bounds = column_blocks(cases[m].groups);
      ASSERT_EQ(plan.pruned[m].size() + 1, bounds.size());
      for (std::size_t b = 0; b < plan.pruned[m].size(); ++b) {
        std::int64_t below = 0, weights = cases[m].weight.size(0) * (bounds[b + 1] - bounds[b]);
        for (std::int64_t r = 0; r < cases[m].weight.size(0); ++r)
          for (std::int64_t k = bounds[b]; k < bounds[b + 1]; ++k) below += score(cases[m], r, k) < exact;
        EXPECT_NEAR(static_cast<double>(plan.pruned[m][b]), static_cast<double>(below), 0.01 * static_cast<double>(weights));
        total += plan.pruned[m][b];
      }
    }
    EXPECT_EQ(total, std::llround(s * static_cast<double>(scores.size())));
  }
}

TEST(SparsityPlan, ExactForManySettings) {
  ThreadPool pool(1);
  const std::vector<Case> cases = {make_case(31, 257, 64, 4, Grouping::Sensitivity), make_case(17, 140, 128, 5)};
  const auto histograms = histograms_of(cases, pool);
  const double weights = 31 * 257 + 17 * 140;
  for (int percent = 1; percent < 100; ++percent) {
    for (double blend : {0.0, 0.5, 1.0}) {
      const auto plan = plan_sparsity(histograms, {percent / 100.0, blend, 0.1, 0.9});
      std::int64_t total = 0;
      for (const auto& matrix : plan.pruned) total = std::accumulate(matrix.begin(), matrix.end(), total);
      ASSERT_EQ(total, std::llround(percent / 100.0 * weights)) << percent << " " << blend;
    }
  }
}

TEST(SparsityPlan, NoBlendIsEven) {
  ThreadPool pool(1);
  const std::vector<Case> cases = {make_case(50, 256, 128, 6), make_case(20, 256, 128, 7)};
  const auto plan = plan_sparsity(histograms_of(cases, pool), {0.5, 0.0, 0.1, 0.9});
  EXPECT_EQ(plan.pruned, (std::vector<std::vector<std::int64_t>>{{3200, 3200}, {1280, 1280}}));
}

TEST(SparsityPlan, KeptSharesAddUpAndMatchSorting) {
  ThreadPool pool(2);
  const Case c = make_case(80, 200, 100, 8);
  const std::vector<std::int64_t> pruned = {2222, 7999};
  const auto bounds = column_blocks(c.groups);  // two groups of 100 make one block of 200
  ASSERT_EQ(bounds.size(), 2u);
  for (std::int64_t count : {std::int64_t{0}, std::int64_t{1}, std::int64_t{5000}, std::int64_t{15999}, std::int64_t{16000}}) {
    const auto kept = kept_shares(c.weight, c.groups, c.sensitivity, c.inverse, std::vector<std::int64_t>{count}, pool);
    EXPECT_NEAR(std::accumulate(kept.begin(), kept.end(), 0.0) * 80, static_cast<double>(16000 - count), 1e-6);
    std::vector<double> scores;
    for (std::int64_t r = 0; r < 80; ++r)
      for (std::int64_t k = 0; k < 200; ++k) scores.push_back(score(c, r, k));
    std::sort(scores.begin(), scores.end());
    const double threshold = count < 16000 ? scores[count] : 1e300;
    for (std::int64_t k = 0; k < 200; ++k) {
      double above = 0;
      for (std::int64_t r = 0; r < 80; ++r) above += score(c, r, k) >= threshold;
      EXPECT_NEAR(kept[k], above / 80, 0.03);
    }
  }
  EXPECT_THROW(kept_shares(c.weight, c.groups, c.sensitivity, c.inverse, pruned, pool), Error);
  EXPECT_THROW(kept_shares(c.weight, c.groups, c.sensitivity, c.inverse, std::vector<std::int64_t>{16001}, pool), Error);
}

TEST(SparsityPlan, RefusesBadOptions) {
  EXPECT_THROW(plan_sparsity({}, {0.0, 0.5, 0.1, 0.9}), UsageError);
  EXPECT_THROW(plan_sparsity({}, {1.0, 0.5, 0.1, 0.9}), UsageError);
  EXPECT_THROW(plan_sparsity({}, {0.5, 1.5, 0.1, 0.9}), UsageError);
  EXPECT_THROW(plan_sparsity({}, {0.5, 0.5, 0.9, 0.1}), UsageError);
  EXPECT_TRUE(plan_sparsity({}, {0.5, 0.5, 0.1, 0.9}).pruned.empty());
}

TEST(Plan, SameBytesAtAnyThreadCount) {
  const std::vector<Case> cases = {make_case(300, 260, 64, 10, Grouping::Sensitivity), make_case(64, 300, 128, 11)};
  std::vector<double> errors, kept;
  std::vector<std::vector<std::int64_t>> pruned;
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    const auto e = column_errors(cases[0].weight, cases[0].groups, cases[0].sensitivity, pool);
    const auto plan = plan_sparsity(histograms_of(cases, pool), {0.5, 0.5, 0.1, 0.9});
    const auto k = kept_shares(cases[1].weight, cases[1].groups, cases[1].sensitivity, cases[1].inverse, plan.pruned[1], pool);
    if (threads > 1) {
      EXPECT_EQ(e, errors);
      EXPECT_EQ(k, kept);
      EXPECT_EQ(plan.pruned, pruned);
    }
    errors = e, kept = k, pruned = plan.pruned;
  }
}

}  // namespace
}  // namespace miq
