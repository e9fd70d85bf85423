// Channel statistics, mutual information, spectral clusters, groupings and importance.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>

#include "miq/base/error.h"
#include "miq/compress/channel_statistics.h"
#include "miq/compress/grouping.h"
#include "miq/compress/importance.h"
#include "miq/compress/mutual_information.h"
#include "miq/compress/spectral.h"
#include "miq/compress/symmetric_eigen.h"

namespace miq {
namespace {

at::Tensor random_tensor(std::int64_t rows, std::int64_t columns, std::uint32_t seed, float mean = 0) {
  at::Tensor tensor = at::empty({rows, columns}, at::kFloat);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(mean, 1);
  for (std::int64_t i = 0; i < rows * columns; ++i) tensor.data_ptr<float>()[i] = normal(random);
  return tensor;
}

// Channels that share much within their block and little across; the blocks are interleaved and of different sizes.
at::Tensor planted(std::int64_t n, std::int64_t clusters, std::vector<std::int32_t>& truth, std::uint32_t seed, float noise = 0.02f) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(0, 1);
  truth.resize(n);
  for (auto& t : truth) t = std::min(static_cast<std::int32_t>(random() % clusters), static_cast<std::int32_t>(random() % (clusters + 2)));
  at::Tensor a = at::zeros({n, n}, at::kFloat);
  float* p = a.data_ptr<float>();
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = i + 1; j < n; ++j)
      p[i * n + j] = p[j * n + i] = noise * uniform(random) + (truth[i] == truth[j] ? 0.3f * uniform(random) : 0);
  return a;
}

bool same_partition(const std::vector<std::int32_t>& a, const std::vector<std::int32_t>& b) {
  std::set<std::pair<int, int>> pairs;
  std::set<int> names_a(a.begin(), a.end()), names_b(b.begin(), b.end());
  for (std::size_t i = 0; i < a.size(); ++i) pairs.insert({a[i], b[i]});
  return pairs.size() == names_a.size() && pairs.size() == names_b.size();
}

TEST(ChannelStatistics, MatchesTheDefinitionInAnyOrder) {
  const std::int64_t tokens = 399, n = 75;
  const at::Tensor x = random_tensor(tokens, n, 1, 0.5f);
  ThreadPool one(1), three(3);
  ChannelStatistics whole, rising, falling;
  accumulate(whole, x, one);
  for (std::int64_t t = 0; t < tokens; t += 100) accumulate(rising, x.slice(0, t, std::min(tokens, t + 100)).contiguous(), one);
  for (std::int64_t t = 300; t >= 0; t -= 100) accumulate(falling, x.slice(0, t, std::min(tokens, t + 100)).contiguous(), three);
  EXPECT_EQ(whole.tokens, tokens);
  EXPECT_EQ(rising.tokens, tokens);
  EXPECT_EQ(rising.sum, falling.sum);
  EXPECT_EQ(rising.sum_abs, falling.sum_abs);
  EXPECT_EQ(rising.sum_squares, falling.sum_squares);
  EXPECT_EQ(rising.sum_fourths, falling.sum_fourths);
  const float* p = x.const_data_ptr<float>();
  for (const ChannelStatistics& found : {whole, rising}) {
    for (std::int64_t j : {std::int64_t{0}, std::int64_t{31}, std::int64_t{32}, n - 1}) {
      double m = 0, a = 0, s = 0, f = 0;
      for (std::int64_t t = 0; t < tokens; ++t) {
        const double v = p[t * n + j];
        m += v, a += std::abs(v), s += v * v, f += v * v * v * v;
      }
      constexpr double kRounded = 0x1p-23;  // parts, and what is read, have 24 bits
      EXPECT_NEAR(found.mean()[j], m / tokens, kRounded * a / tokens);
      EXPECT_NEAR(found.mean_abs()[j], a / tokens, kRounded * a / tokens);
      EXPECT_NEAR(found.second_moment()[j], s / tokens, kRounded * s / tokens);
      EXPECT_NEAR(found.fourth_moment()[j], f / tokens, kRounded * f / tokens);
    }
  }
}

TEST(ChannelStatistics, ReadsBFloat16AndRefusesTheRest) {
  ThreadPool pool(2);
  const at::Tensor x = random_tensor(50, 33, 2).to(at::kBFloat16);
  ChannelStatistics narrow, wide;
  accumulate(narrow, x, pool);
  accumulate(wide, x.to(at::kFloat), pool);
  EXPECT_EQ(narrow.sum_fourths, wide.sum_fourths);
  EXPECT_THROW(accumulate(narrow, x.to(at::kHalf), pool), Error);
  EXPECT_THROW(accumulate(narrow, random_tensor(4, 32, 3), pool), Error);
}

TEST(MutualInformation, ClosedFormForCorrelatedGaussians) {
  // x1 = rho x0 + sqrt(1 - rho^2) e, off-centre: I = -1/2 ln(1 - rho^2).
  const std::int64_t tokens = 200000;
  const double rho = 0.8;
  at::Tensor x = random_tensor(tokens, 3, 5);
  float* p = x.data_ptr<float>();
  for (std::int64_t t = 0; t < tokens; ++t) {
    p[t * 3 + 1] = static_cast<float>(rho * p[t * 3] + std::sqrt(1 - rho * rho) * p[t * 3 + 1]) * 7 - 3;
    p[t * 3] += 2;
  }
  ThreadPool pool(2);
  ChannelStatistics statistics;
  accumulate(statistics, x, pool);
  const at::Tensor h = at::mm(x.t().to(at::kDouble), x.to(at::kDouble)) / static_cast<double>(tokens);
  const at::Tensor mi = gaussian_mutual_information(h, statistics.mean(), pool);
  const float* m = mi.const_data_ptr<float>();
  EXPECT_NEAR(m[1], -0.5 * std::log(1 - rho * rho), 0.01);
  EXPECT_EQ(m[1], m[3]);
  EXPECT_EQ(m[0], 0);
  EXPECT_LT(m[2], 1e-4);
}

TEST(MutualInformation, ClipsCopiesAndIgnoresConstantChannels) {
  ThreadPool pool(1);
  at::Tensor h = at::zeros({3, 3}, at::kDouble);
  double* p = h.data_ptr<double>();
  p[0] = p[1] = p[3] = p[4] = 1;  // channels 0 and 1 are copies
  p[8] = 4;                       // channel 2 is constantly 2
  const std::vector<double> mean = {0, 0, 2};
  const at::Tensor mi = gaussian_mutual_information(h, mean, pool);
  EXPECT_NEAR(mi.const_data_ptr<float>()[1], -0.5 * std::log(1e-6), 1e-3);
  EXPECT_EQ(mi.const_data_ptr<float>()[2], 0);
  p[1] = std::nan("");
  EXPECT_THROW(gaussian_mutual_information(h, mean, pool), Error);
  EXPECT_THROW(gaussian_mutual_information(h, std::vector<double>{1}, pool), Error);
}

TEST(MutualInformation, SummaryCountsPairs) {
  ThreadPool pool(3);
  std::vector<std::int32_t> truth;
  const at::Tensor a = planted(70, 4, truth, 7);
  const float* p = a.const_data_ptr<float>();
  double sum[2] = {}, count[2] = {}, largest = 0;
  for (int i = 0; i < 70; ++i)
    for (int j = i + 1; j < 70; ++j) {
      sum[truth[i] == truth[j]] += p[i * 70 + j], count[truth[i] == truth[j]] += 1;
      largest = std::max<double>(largest, p[i * 70 + j]);
    }
  const auto summary = summarize(a, truth, pool);
  EXPECT_NEAR(summary.within, sum[1] / count[1], 1e-9);
  EXPECT_NEAR(summary.between, sum[0] / count[0], 1e-9);
  EXPECT_NEAR(summary.mean, (sum[0] + sum[1]) / (count[0] + count[1]), 1e-9);
  EXPECT_EQ(summary.largest, largest);
}

TEST(SymmetricEigen, RitzValuesMatchLapack) {
  const std::int64_t n = 203, count = 12;
  ThreadPool pool(2);
  std::vector<std::int32_t> truth;
  at::Tensor a = planted(n, 9, truth, 11, 0.05f).to(at::kDouble);
  a = a / (a.sum().item<double>() / static_cast<double>(n) * 4);
  const auto [w, v] = at::linalg_eigh(a);
  const at::Tensor f = a.to(at::kFloat).contiguous();
  std::vector<double> values;
  const auto vectors = leading_eigenvectors({f.const_data_ptr<float>(), static_cast<std::size_t>(n * n)}, n, count, 1, pool, &values);
  for (std::int64_t c = 0; c < 9; ++c) {
    EXPECT_NEAR(values[c], w.const_data_ptr<double>()[n - 1 - c], 1e-4) << c;
    double length = 0;
    for (std::int64_t i = 0; i < n; ++i) length += vectors[i * count + c] * vectors[i * count + c];
    EXPECT_NEAR(length, 1, 1e-6);
  }
}

TEST(SymmetricEigen, JacobiSolvesSmallMatrices) {
  const std::int64_t m = 17;
  at::Tensor a = random_tensor(m, m, 13).to(at::kDouble);
  a = (a + a.t()).contiguous();
  const at::Tensor w = std::get<0>(at::linalg_eigh(a));
  std::vector<double> values, vectors;
  jacobi_eigen({a.const_data_ptr<double>(), a.const_data_ptr<double>() + m * m}, m, values, vectors);
  for (std::int64_t c = 0; c < m; ++c) {
    EXPECT_NEAR(values[c], w.const_data_ptr<double>()[m - 1 - c], 1e-10);
    for (std::int64_t i = 0; i < m; ++i) {
      double image = 0;
      for (std::int64_t j = 0; j < m; ++j) image += a.const_data_ptr<double>()[i * m + j] * vectors[c * m + j];
      EXPECT_NEAR(image, values[c] * vectors[c * m + i], 1e-9);
    }
  }
}

TEST(Spectral, FindsPlantedClusters) {
  ThreadPool pool(2);
  for (std::uint32_t seed = 0; seed < 8; ++seed) {
    std::vector<std::int32_t> truth;
    const at::Tensor a = planted(150 + 37 * seed, 3 + seed, truth, seed);
    EXPECT_TRUE(same_partition(spectral_clusters(a, 3 + seed, 0, pool), truth)) << seed;
  }
}

TEST(Spectral, SameLabelsAtAnyThreadCount) {
  std::vector<std::int32_t> truth;
  const at::Tensor a = random_tensor(333, 333, 17).abs();
  const at::Tensor symmetric = (a + a.t()).contiguous();
  ThreadPool one(1);
  const auto expected = spectral_clusters(symmetric, 20, 5, one);
  for (int threads : {2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(spectral_clusters(symmetric, 20, 5, pool), expected) << threads;
  }
}

TEST(Spectral, OddInputs) {
  ThreadPool pool(1);
  EXPECT_EQ(spectral_clusters(at::zeros({5, 5}), 1, 0, pool), (std::vector<std::int32_t>(5, 0)));
  EXPECT_EQ(spectral_clusters(at::zeros({3, 3}), 7, 0, pool), (std::vector<std::int32_t>{0, 1, 2}));
  EXPECT_EQ(spectral_clusters(at::zeros({40, 40}), 4, 0, pool).size(), 40u);
  EXPECT_THROW(spectral_clusters(at::zeros({4, 5}), 2, 0, pool), Error);
  EXPECT_THROW(spectral_clusters(at::zeros({4, 4}) - 1, 2, 0, pool), Error);
  EXPECT_THROW(spectral_clusters(at::zeros({4, 4}), 0, 0, pool), UsageError);
}

void expect_valid(const ChannelGroups& groups, std::int64_t n) {
  std::vector<std::int64_t> sorted = groups.order;
  std::sort(sorted.begin(), sorted.end());
  std::vector<std::int64_t> all(n);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(sorted, all);
  ASSERT_EQ(groups.starts.front(), 0);
  ASSERT_EQ(groups.starts.back(), n);
  for (std::int64_t g = 0; g < groups.groups(); ++g) {
    ASSERT_LT(groups.starts[g], groups.starts[g + 1]);
    for (std::int64_t k = groups.starts[g]; k < groups.starts[g + 1]; ++k) ASSERT_EQ(groups.group_of[k], g);
  }
}

TEST(Grouping, EveryKindIsAPermutationCutIntoRuns) {
  const std::int64_t n = 300;
  ThreadPool pool(2);
  std::vector<std::int32_t> truth;
  const at::Tensor mi = planted(n, 5, truth, 23);
  std::vector<double> energy(n);
  for (std::int64_t j = 0; j < n; ++j) energy[j] = std::abs(std::sin(static_cast<double>(j))) * (j % 7 == 0 ? 30 : 1);
  for (auto kind : {Grouping::Contiguous, Grouping::Sensitivity, Grouping::MutualInformation, Grouping::MutualInformationEqual,
                    Grouping::Random}) {
    const auto groups = group_channels({kind, 64, 0, 0}, energy, mi, pool);
    expect_valid(groups, n);
    EXPECT_EQ(groups.natural_order(), kind == Grouping::Contiguous);
    if (kind == Grouping::Contiguous) continue;
    std::vector<double> mean;
    for (std::int64_t g = 0; g < groups.groups(); ++g) {
      double sum = 0;
      for (std::int64_t k = groups.starts[g]; k < groups.starts[g + 1]; ++k) {
        sum += energy[groups.order[k]];
        if (k > groups.starts[g]) {
          EXPECT_LE(energy[groups.order[k]], energy[groups.order[k - 1]]);
        }
      }
      mean.push_back(sum / static_cast<double>(groups.starts[g + 1] - groups.starts[g]));
    }
    EXPECT_TRUE(std::is_sorted(mean.rbegin(), mean.rend()));
    if (kind != Grouping::MutualInformation) {
      EXPECT_EQ(groups.groups(), 5);
    }
  }
  const auto clusters = group_channels({Grouping::MutualInformation, 60, 0, 0}, energy, mi, pool);
  EXPECT_TRUE(same_partition(clusters.group_of_channel(), truth));
}

TEST(Grouping, BandsKeepToSimilarEnergy) {
  const std::int64_t n = 500;
  ThreadPool pool(2);
  std::vector<std::int32_t> truth;
  const at::Tensor mi = planted(n, 5, truth, 29);
  std::vector<double> energy(n);
  for (std::int64_t j = 0; j < n; ++j) energy[j] = std::exp(3 * std::sin(static_cast<double>(7 * j)));
  const auto sorted = group_channels({Grouping::Sensitivity, 50, 0, 0}, energy, mi, pool);
  EXPECT_EQ(group_channels({Grouping::MutualInformationEqual, 50, 0, 0, 1}, energy, mi, pool).order, sorted.order);
  const auto banded = group_channels({Grouping::MutualInformationEqual, 50, 0, 0, 4}, energy, mi, pool);
  expect_valid(banded, n);
  const auto group = banded.group_of_channel();
  for (std::int64_t k = 0; k < n; ++k) EXPECT_EQ(group[sorted.order[k]] / 4, k / 200);  // no channel leaves its band
  const auto of = [&](const ChannelGroups& groups) { return summarize(mi, groups.group_of_channel(), pool).within; };
  EXPECT_GT(of(banded), 1.5 * of(sorted));
  EXPECT_GT(of(group_channels({Grouping::MutualInformationEqual, 50, 0, 0, 0}, energy, mi, pool)), of(banded));
}

TEST(Grouping, CountsSizesAndErrors) {
  ThreadPool pool(1);
  const std::vector<double> energy(100, 1.0);
  EXPECT_EQ(group_channels({Grouping::Contiguous, 0, 0, 0}, energy, {}, pool).groups(), 1);
  EXPECT_EQ(group_channels({Grouping::Contiguous, 30, 0, 0}, energy, {}, pool).starts, (std::vector<std::int64_t>{0, 30, 60, 90, 100}));
  EXPECT_EQ(group_channels({Grouping::Random, 64, 4, 1}, energy, {}, pool).groups(), 4);
  EXPECT_NE(group_channels({Grouping::Random, 10, 0, 1}, energy, {}, pool).group_of_channel(),
            group_channels({Grouping::Random, 10, 0, 2}, energy, {}, pool).group_of_channel());
  EXPECT_THROW(group_channels({Grouping::Contiguous, 64, 101, 0}, energy, {}, pool), UsageError);
  EXPECT_THROW(group_channels({Grouping::Contiguous, -1, 0, 0}, energy, {}, pool), UsageError);
  EXPECT_THROW(group_channels({Grouping::MutualInformation, 10, 0, 0}, energy, {}, pool), Error);
  const std::vector<double> bad = {1, std::nan("")};
  EXPECT_THROW(group_channels({Grouping::Sensitivity, 1, 0, 0}, bad, {}, pool), Error);
}

TEST(Grouping, BlocksAreWholeGroups) {
  ThreadPool pool(1);
  const std::vector<double> energy(300, 1.0);
  EXPECT_EQ(column_blocks(group_channels({Grouping::Contiguous, 50, 0, 0}, energy, {}, pool)), (std::vector<std::int64_t>{0, 150, 300}));
  EXPECT_EQ(column_blocks(group_channels({Grouping::Contiguous, 0, 0, 0}, energy, {}, pool)), (std::vector<std::int64_t>{0, 300}));
  EXPECT_EQ(column_blocks(group_channels({Grouping::Contiguous, 128, 0, 0}, energy, {}, pool)),
            (std::vector<std::int64_t>{0, 128, 256, 300}));
}

TEST(Importance, FollowsItsDefinition) {
  const std::int64_t n = 40, rows = 24;
  ThreadPool pool(2);
  ChannelStatistics s;
  accumulate(s, random_tensor(500, n, 31) * random_tensor(1, n, 32).abs(), pool);
  const at::Tensor w = random_tensor(rows, n, 33);
  std::vector<double> inverse(n);
  for (std::int64_t j = 0; j < n; ++j) inverse[j] = 0.5 + 0.01 * static_cast<double>(j);
  auto standardised = [](std::vector<double> v) {
    double mean = 0, var = 0;
    for (double& x : v) x = std::log(x + 1e-12), mean += x / static_cast<double>(v.size());
    for (double x : v) var += (x - mean) * (x - mean) / static_cast<double>(v.size());
    for (double& x : v) x = (x - mean) / std::sqrt(var);
    return v;
  };
  std::vector<double> norm(n, 0.0), spiky(n), removal(n);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t j = 0; j < n; ++j) norm[j] += std::pow(w.const_data_ptr<float>()[r * n + j], 2);
  for (std::int64_t j = 0; j < n; ++j) {
    spiky[j] = (s.second_moment()[j] - std::pow(s.mean()[j], 2)) * s.fourth_moment()[j] / std::pow(s.second_moment()[j], 2);
    removal[j] = norm[j] / inverse[j];
    norm[j] = std::sqrt(norm[j]);
  }
  const std::vector<std::vector<double>> parts = {standardised(s.mean_abs()), standardised(s.second_moment()), standardised(spiky),
                                                  standardised(norm), standardised(removal)};
  const auto equal = channel_importance(s, w, inverse, kEqualImportanceWeights, pool);
  const auto last = channel_importance(s, w, inverse, {0, 0, 0, 0, 3}, pool);
  for (std::int64_t j = 0; j < n; ++j) {
    double mean = 0;
    for (const auto& part : parts) mean += part[j] / 5;
    EXPECT_NEAR(equal[j], mean, 1e-6);
    EXPECT_NEAR(last[j], parts[4][j], 1e-6);
  }
  EXPECT_THROW(channel_importance(s, w, inverse, {0, 0, 0, 0, 0}, pool), UsageError);
  EXPECT_THROW(channel_importance(s, w, inverse, {1, -1, 0, 0, 0}, pool), UsageError);
}

}  // namespace
}  // namespace miq
