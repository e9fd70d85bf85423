// Every allocator over the groups of a whole model: budgets are exact in code bits and in effective bits, however random
// the model; what an allocator promises holds.
#include "miq/compress/plan_bits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>

#include "miq/base/error.h"
#include "miq/compress/allocate.h"

namespace miq {
namespace {

constexpr Allocator kAllocators[] = {Allocator::Global, Allocator::PerLayer, Allocator::Redundancy, Allocator::Quantile, Allocator::Budget};

std::vector<MatrixItems> random_matrices(std::uint32_t seed, bool masked) {
  std::mt19937 random(seed);
  std::lognormal_distribution<double> size(0, 2);
  std::vector<MatrixItems> matrices;
  for (std::int64_t layer = 0; layer < 3; ++layer) {
    for (int m = 0; m < 4; ++m) {
      MatrixItems& matrix = matrices.emplace_back();
      matrix.layer = layer;
      matrix.rows = 8 + static_cast<std::int64_t>(random() % 90);
      matrix.masked = masked;
      matrix.scale_bits = std::array<int, 5>{16, 32, 8, 6, 5}[random() % 5];
      matrix.starts = {0};
      const int groups = 1 + static_cast<int>(random() % 12);
      for (int g = 0; g < groups; ++g) {
        matrix.starts.push_back(matrix.starts.back() + 1 + static_cast<std::int64_t>(random() % 64));
        const std::int64_t weights = matrix.rows * (matrix.starts.back() - matrix.starts[static_cast<std::size_t>(g)]);
        matrix.kept.push_back(
            static_cast<double>(masked ? weights - static_cast<std::int64_t>(random() % static_cast<std::uint32_t>(weights)) : weights));
        matrix.information.push_back(0.1 * size(random));
        double loss = size(random) * matrix.kept.back();
        for (int level : kBitLevels)
          matrix.losses.push_back(loss * std::pow(4, -level) * (0.9 + 0.2 * static_cast<double>(random() % 100) / 100));
      }
    }
  }
  return matrices;
}

Recipe recipe_of(Allocator allocator, std::optional<double> target, std::optional<double> bpw) {
  Recipe recipe;
  recipe.allocator = allocator;
  recipe.target = target;
  recipe.target_bpw = bpw;
  recipe.levels.assign(kBitLevels.begin(), kBitLevels.end());
  return recipe;
}

struct Spent {
  double bits = 0, weights = 0, smallest_step = std::numeric_limits<double>::infinity();
};

// Counted as the container counts, bit stream by bit stream; `effective`: everything, over all weights.
Spent count(const std::vector<MatrixItems>& matrices, const std::vector<std::vector<std::uint8_t>>& widths, bool effective) {
  Spent spent;
  const auto whole_bytes = [](double bits) { return std::ceil(bits / 8) * 8; };
  for (std::size_t m = 0; m < matrices.size(); ++m) {
    const MatrixItems& matrix = matrices[m];
    EXPECT_EQ(widths[m].size(), matrix.kept.size());
    for (std::size_t g = 0; g < matrix.kept.size(); ++g) {
      const double rows = static_cast<double>(matrix.rows);
      const auto level = std::find(kBitLevels.begin(), kBitLevels.end(), static_cast<int>(widths[m][g]));
      EXPECT_NE(level, kBitLevels.end());
      const double step = level + 1 < kBitLevels.end() ? level[1] - level[0] : std::numeric_limits<double>::infinity();
      if (effective) {
        spent.bits += whole_bytes(matrix.kept[g] * *level) + whole_bytes(rows * *level) + 8;
        spent.smallest_step = std::min(spent.smallest_step, step * (matrix.kept[g] + rows));
      } else {
        spent.bits += matrix.kept[g] * *level;
        spent.weights += matrix.kept[g];
        if (matrix.kept[g] > 0) spent.smallest_step = std::min(spent.smallest_step, step * matrix.kept[g]);
      }
    }
    if (!effective) continue;
    const double scales = whole_bytes(static_cast<double>(matrix.rows) * static_cast<double>(matrix.kept.size()) * matrix.scale_bits);
    spent.bits += scales + (matrix.scale_bits < 16 ? 8 * static_cast<double>(matrix.rows + 1) : 0);
    const double weights = static_cast<double>(matrix.rows * matrix.starts.back());
    const double index = matrix.kept.size() > 1 ? std::ceil(std::log2(matrix.kept.size())) : 0;
    spent.bits += (matrix.masked ? whole_bytes(weights) : 0) + whole_bytes(index * static_cast<double>(matrix.starts.back()));
    spent.weights += weights;
  }
  return spent;
}

TEST(PlanBits, CodeBitsAreExactForEveryAllocator) {
  for (std::uint32_t seed = 1; seed <= 10; ++seed) {
    for (bool masked : {false, true}) {
      const auto matrices = random_matrices(seed, masked);
      for (Allocator allocator : kAllocators) {
        for (double target : {2.0, 2.71, 3.0, 4.4, 7.9, 8.0}) {
          const Spent spent = count(matrices, plan_bits(matrices, recipe_of(allocator, target, {})), false);
          const std::string what =
              std::string(allocator_name(allocator)) + " at " + std::to_string(target) + " seed " + std::to_string(seed);
          EXPECT_LE(spent.bits, target * spent.weights + 1e-6) << what;
          if (target < 8) {
            EXPECT_GT(spent.bits + spent.smallest_step, target * spent.weights - 1e-6) << what;
          }
        }
      }
    }
  }
}

TEST(PlanBits, EffectiveBitsAreExactForEveryAllocator) {
  for (std::uint32_t seed = 1; seed <= 10; ++seed) {
    for (bool masked : {false, true}) {
      const auto matrices = random_matrices(seed, masked);
      double slack = 0;  // what rounding bit streams up to bytes may leave unused
      for (const MatrixItems& matrix : matrices) slack += 14.0 * static_cast<double>(matrix.kept.size());
      for (Allocator allocator : kAllocators) {
        double fixed = 0, counted = 0, weights = 0;
        for (const MatrixItems& matrix : matrices) {
          fixed += static_cast<double>(fixed_bits(matrix, kBitLevels));
          for (double kept : matrix.kept) counted += kept + static_cast<double>(matrix.rows);
          weights += static_cast<double>(matrix.weights());
        }
        for (double level : {2.0, 3.1, 4.0, 7.7}) {  // each of code bits and zero points
          const double target = (fixed + level * counted) / weights + 1e-9;
          const Spent spent = count(matrices, plan_bits(matrices, recipe_of(allocator, {}, target)), true);
          const std::string what =
              std::string(allocator_name(allocator)) + " at " + std::to_string(target) + " seed " + std::to_string(seed);
          EXPECT_LE(spent.bits, target * spent.weights + 1e-6) << what;
          EXPECT_GT(spent.bits + spent.smallest_step + slack, target * spent.weights) << what;
        }
      }
    }
  }
}

TEST(PlanBits, WhatCannotBeReachedIsSaid) {
  const auto matrices = random_matrices(1, false);
  for (double target : {1.0, 30.0}) {
    try {
      plan_bits(matrices, recipe_of(Allocator::Global, {}, target));
      FAIL() << target;
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find("take from"), std::string::npos) << error.what();
    }
  }
}

TEST(PlanBits, GlobalIsTheKnapsackOverAllAndLosesLeast) {
  const auto matrices = random_matrices(3, true);
  std::vector<double> losses, kept;
  for (const MatrixItems& matrix : matrices) {
    losses.insert(losses.end(), matrix.losses.begin(), matrix.losses.end());
    kept.insert(kept.end(), matrix.kept.begin(), matrix.kept.end());
  }
  const auto loss_of = [&](const std::vector<std::vector<std::uint8_t>>& widths) {
    double sum = 0;
    for (std::size_t m = 0; m < matrices.size(); ++m) {
      for (std::size_t g = 0; g < widths[m].size(); ++g) {
        sum +=
            matrices[m]
                .losses[g * 5 + static_cast<std::size_t>(std::find(kBitLevels.begin(), kBitLevels.end(), static_cast<int>(widths[m][g])) -
                                                         kBitLevels.begin())];
      }
    }
    return sum;
  };
  const auto global = plan_bits(matrices, recipe_of(Allocator::Global, 3.3, {}));
  std::vector<std::uint8_t> flat;
  for (const auto& widths : global) flat.insert(flat.end(), widths.begin(), widths.end());
  EXPECT_EQ(flat, allocate_global(losses, kept, 3.3));
  const double per_layer = loss_of(plan_bits(matrices, recipe_of(Allocator::PerLayer, 3.3, {})));
  EXPECT_LE(loss_of(global), per_layer);
  for (Allocator allocator : {Allocator::Redundancy, Allocator::Quantile, Allocator::Budget}) {
    EXPECT_LT(per_layer, loss_of(plan_bits(matrices, recipe_of(allocator, 3.3, {})))) << allocator_name(allocator);
  }
}

TEST(PlanBits, RedundantGroupsGetFewerBits) {
  MatrixItems matrix;
  matrix.rows = 10;
  matrix.starts = {0, 8, 16, 24, 32};
  matrix.kept.assign(4, 80);
  matrix.losses.assign(20, 1.0);
  matrix.information = {0.5, 0.01, 0.1, 0.02};
  const auto widths = plan_bits(std::vector<MatrixItems>{matrix}, recipe_of(Allocator::Redundancy, 4.0, {})).front();
  EXPECT_LT(widths[0], widths[1]);
  EXPECT_LE(widths[0], widths[2]);
  EXPECT_LE(widths[2], widths[3]);
  EXPECT_LE(widths[3], widths[1]);
}

TEST(PlanBits, EqualFifthsWithoutATarget) {
  std::vector<MatrixItems> matrices(1);
  matrices[0].rows = 4;
  matrices[0].starts = {0};
  for (int g = 0; g < 50; ++g) {
    matrices[0].starts.push_back(2 * (g + 1));
    matrices[0].kept.push_back(8);
    for (int level : kBitLevels) matrices[0].losses.push_back((1 + g * 7 % 50) * std::pow(4, -level));
  }
  const auto widths = plan_bits(matrices, recipe_of(Allocator::Quantile, {}, {})).front();
  for (int level : kBitLevels) EXPECT_EQ(std::count(widths.begin(), widths.end(), level), 10) << level;
  for (std::size_t g = 0; g < 50; ++g) EXPECT_EQ(widths[g] == 8, 1 + g * 7 % 50 > 40) << g;
}

}  // namespace
}  // namespace miq
