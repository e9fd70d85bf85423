#include "miq/compress/allocate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>

#include "miq/base/error.h"
#include "tests/reference/allocation.h"

namespace miq {
namespace {

// Never above the target, and short of it by less than the smallest step that some item could still take.
void expect_exact(std::span<const std::uint8_t> bits, std::span<const double> kept, double target,
                  std::span<const int> levels = kBitLevels) {
  double spent = 0, total = 0, smallest_step = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < bits.size(); ++i) {
    spent += kept[i] * bits[i];
    total += kept[i];
    const auto at = std::find(levels.begin(), levels.end(), bits[i]);
    ASSERT_NE(at, levels.end());
    if (kept[i] > 0 && at + 1 != levels.end()) smallest_step = std::min(smallest_step, kept[i] * (at[1] - at[0]));
  }
  const double rounding = 1e-9 * (1 + total);
  EXPECT_LE(spent, target * total + rounding);
  EXPECT_LT(target * total - spent, smallest_step + rounding);
}

std::vector<double> falling_losses(std::mt19937& random, std::size_t items, std::span<const double> kept) {
  std::vector<double> loss;
  std::lognormal_distribution<double> size(0, 2);
  std::uniform_real_distribution<double> noise(0.7, 1.3);
  for (std::size_t i = 0; i < items; ++i) {
    const double scale = size(random) * std::max(kept[i], 0.1);
    for (int b : kBitLevels) loss.push_back(scale * std::pow(4.0, -b) * noise(random));
  }
  return loss;
}

TEST(AllocateBudget, ExactForHundredsOfSettings) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 400; ++trial) {
    const auto items = 1 + random() % 300;
    std::vector<double> score(items), kept(items);
    std::normal_distribution<double> normal;
    const int kind = trial % 4;
    for (auto& s : score) {
      s = normal(random);
      s = kind == 0 ? 1.0 : kind == 1 ? std::round(s) : kind == 2 ? std::exp(3 * s) : s;
    }
    for (auto& k : kept) k = trial % 3 == 0 ? 576 : static_cast<double>(random() % 577);
    const double target = 2 + 6 * static_cast<double>(random() % 1001) / 1000;
    expect_exact(allocate_budget(score, kept, target, 0.25 * static_cast<double>(random() % 12)), kept, target);
    expect_exact(allocate_quantile(score, kept, target), kept, target);
    expect_exact(allocate_global(falling_losses(random, items, kept), kept, target), kept, target);
  }
}

TEST(AllocateBudget, EqualColumnsMissByLessThanOneColumn) {
  std::mt19937 random(2);
  std::normal_distribution<double> normal;
  std::vector<double> score(576), kept(576, 192.0);
  for (auto& s : score) s = normal(random);
  for (double target : {2.0, 2.5, 3.0, 3.15, 4.0, 4.6, 7.999, 8.0}) {
    const auto bits = allocate_budget(score, kept, target);
    EXPECT_LE(average_bits(bits, kept), target);
    EXPECT_GT(average_bits(bits, kept), target - 2.0 / 576);
    for (std::size_t i = 0; i < score.size(); ++i)
      for (std::size_t j = 0; j < score.size(); ++j)
        if (score[i] > score[j]) {
          ASSERT_GE(bits[i], bits[j]) << target;
        }
  }
}

TEST(AllocateQuantile, EqualFifthsAverageFourPointSix) {
  std::vector<double> score(1000), kept(1000, 7.0);
  for (std::size_t i = 0; i < score.size(); ++i) score[i] = std::sin(static_cast<double>(i));
  const auto bits = allocate_quantile(score, kept);
  std::map<int, int> histogram;
  for (int b : bits) ++histogram[b];
  EXPECT_EQ(histogram, (std::map<int, int>{{2, 200}, {3, 200}, {4, 200}, {6, 200}, {8, 200}}));
  EXPECT_DOUBLE_EQ(average_bits(bits, kept), 4.6);
}

TEST(AllocateQuantile, ShiftedClassesUseEveryLevel) {
  std::vector<double> score(768), kept(768, 1.0);
  std::iota(score.begin(), score.end(), 0.0);
  std::map<int, int> histogram;
  for (int b : allocate_quantile(score, kept, 4.0)) ++histogram[b];
  EXPECT_EQ(histogram.size(), 5u);
  EXPECT_GT(histogram[2], histogram[3]);
  EXPECT_GT(histogram[6], histogram[8]);
}

TEST(AllocateRedundancy, RedundantGroupsGetFewerBits) {
  const std::vector<double> information = {0.5, 0.001, 0.1, 9.0};
  const std::vector<std::int64_t> channels = {10, 10, 10, 1};
  const std::vector<double> kept = {10, 10, 10, 1};
  const auto bits = allocate_redundancy(information, channels, kept, 4.0);
  EXPECT_LE(bits[0], bits[2]);
  EXPECT_LT(bits[0], bits[1]);
  EXPECT_GE(bits[3], bits[2]);  // a lone channel is the least redundant, whatever its figure says
  expect_exact(bits, kept, 4.0);
}

TEST(AllocateGlobal, NearTheBestOnSmallInstances) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 60; ++trial) {
    const std::size_t items = 2 + random() % 5;
    std::vector<double> kept(items);
    for (auto& k : kept) k = static_cast<double>(1 + random() % 20);
    const auto loss = falling_losses(random, items, kept);
    const double target = 2.2 + 5 * static_cast<double>(random() % 100) / 100;
    const double total = std::accumulate(kept.begin(), kept.end(), 0.0);
    const auto bits = allocate_global(loss, kept, target);
    double found = 0, largest_gain = 0;
    for (std::size_t i = 0; i < items; ++i) {
      const auto level = static_cast<std::size_t>(std::find(kBitLevels.begin(), kBitLevels.end(), bits[i]) - kBitLevels.begin());
      found += loss[i * 5 + level];
      largest_gain = std::max(largest_gain, loss[i * 5] - loss[i * 5 + 4]);
    }
    const double best = reference::best_loss_by_enumeration(loss, kept, kBitLevels, target * total);
    EXPECT_GE(found, best - 1e-12 * best);
    // The greedy bound: no worse than the relaxation by more than the one increment that did not fit.
    EXPECT_LE(found, reference::relaxed_loss(loss, kept, kBitLevels, target * total) + largest_gain);
  }
}

TEST(AllocateGlobal, WithinAThousandthOfTheRelaxationOnManyItems) {
  std::mt19937 random(4);
  std::vector<double> kept(5000);
  for (auto& k : kept) k = 64.0 * static_cast<double>(192 << (random() % 4));
  const auto loss = falling_losses(random, kept.size(), kept);
  const double total = std::accumulate(kept.begin(), kept.end(), 0.0);
  for (double target : {2.5, 3.0, 4.0, 6.0}) {
    const auto bits = allocate_global(loss, kept, target);
    double found = 0;
    for (std::size_t i = 0; i < kept.size(); ++i)
      found += loss[i * 5 + static_cast<std::size_t>(std::find(kBitLevels.begin(), kBitLevels.end(), bits[i]) - kBitLevels.begin())];
    EXPECT_LT(found, 1.001 * reference::relaxed_loss(loss, kept, kBitLevels, target * total)) << target;
    expect_exact(bits, kept, target);
  }
}

TEST(AllocateGlobal, LossesThatDoNotFallStillMeetTheBudget) {
  const std::vector<double> loss = {1, 1, 1, 1, 1, 0, 1, 2, 3, 4, 5, 5, 1, 1, 9}, kept = {3, 5, 7};
  for (double target : {2.0, 3.3, 5.0, 8.0}) expect_exact(allocate_global(loss, kept, target), kept, target);
}

TEST(AllocateGlobal, OtherLevels) {
  const std::vector<int> levels = {1, 5};
  const std::vector<double> loss = {10, 1, 9, 0, 8, 1}, kept = {1, 1, 1};
  EXPECT_EQ(allocate_global(loss, kept, 11.0 / 3, levels), (std::vector<std::uint8_t>{5, 5, 1}));
}

TEST(Allocate, RefusesWhatCannotBe) {
  const std::vector<double> score = {1, 2}, kept = {1, 1}, loss(10, 1.0), bad = {1, std::nan("")};
  EXPECT_THROW(allocate_budget(score, kept, 1.9), UsageError);
  EXPECT_THROW(allocate_budget(score, kept, 8.1), UsageError);
  EXPECT_THROW(allocate_quantile(score, kept, std::nan("")), UsageError);
  EXPECT_THROW(allocate_global(loss, kept, 9), UsageError);
  EXPECT_THROW(allocate_budget(bad, kept, 4), Error);
  EXPECT_THROW(allocate_budget(score, bad, 4), Error);
  EXPECT_THROW(allocate_global(bad, kept, 4), Error);
  const std::vector<int> falling = {4, 2};
  EXPECT_THROW(allocate_budget(score, kept, 3, 1.0, falling), UsageError);
  EXPECT_TRUE(allocate_budget({}, {}, 4).empty());
}

TEST(Allocate, PrunedColumnsCostNothing) {
  const std::vector<double> score = {3, 2, 1, 0}, kept = {10, 0, 10, 0};
  expect_exact(allocate_budget(score, kept, 4.0), kept, 4.0);
  expect_exact(allocate_quantile(score, kept, 4.0), kept, 4.0);
  expect_exact(allocate_global(std::vector<double>(20, 1.0), kept, 4.0), kept, 4.0);
}

}  // namespace
}  // namespace miq
