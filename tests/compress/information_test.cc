// The binned estimate of mutual information, and hierarchical clustering, against naive oracles.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <set>

#include "miq/base/error.h"
#include "miq/compress/grouping.h"
#include "miq/compress/hierarchical.h"
#include "miq/compress/mutual_information.h"
#include "tests/reference/information.h"

namespace miq {
namespace {

at::Tensor samples_of(const std::vector<std::vector<float>>& channels) {
  const auto n = static_cast<std::int64_t>(channels.size()), tokens = static_cast<std::int64_t>(channels[0].size());
  at::Tensor samples = at::empty({tokens, n}, at::kFloat);
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t j = 0; j < n; ++j)
      samples.data_ptr<float>()[t * n + j] = channels[static_cast<std::size_t>(j)][static_cast<std::size_t>(t)];
  return samples;
}

// Normal, dependent in several ways, with ties, constant.
std::vector<std::vector<float>> odd_channels(std::size_t tokens, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> channels(20, std::vector<float>(tokens));
  for (std::size_t t = 0; t < tokens; ++t) {
    for (auto& channel : channels) channel[t] = normal(random);
    channels[1][t] = channels[0][t] + 0.5f * normal(random);
    channels[2][t] = channels[0][t] * channels[0][t];
    channels[3][t] = std::max(0.0f, channels[0][t]);
    channels[4][t] = 3;
    channels[5][t] = static_cast<float>(random() % 3);
    channels[6][t] = channels[5][t];
    channels[7][t] = -channels[0][t];
  }
  return channels;
}

TEST(BinnedInformation, MatchesTheNaiveEstimate) {
  for (std::size_t tokens : {1, 7, 64, 65, 1000, 4099}) {
    const auto channels = odd_channels(tokens, static_cast<std::uint32_t>(tokens));
    std::vector<at::Tensor> results;
    for (int threads : {1, 3}) {
      ThreadPool pool(threads);
      results.push_back(binned_mutual_information(samples_of(channels), pool));
    }
    ASSERT_TRUE(results[0].equal(results[1]));
    const float* information = results[0].const_data_ptr<float>();
    for (std::size_t i = 0; i < 20; ++i) {
      EXPECT_EQ(information[i * 20 + i], 0);
      for (std::size_t j = 0; j < 20; ++j) {
        if (i == j) continue;
        ASSERT_NEAR(information[i * 20 + j], reference::binned_information(channels[i], channels[j]), 1e-6)
            << tokens << ": " << i << " " << j;
        ASSERT_EQ(information[i * 20 + j], information[j * 20 + i]);
      }
    }
  }
}

TEST(BinnedInformation, SeesWhatCorrelationDoesNot) {
  const auto channels = odd_channels(8192, 5);
  ThreadPool pool(2);
  const at::Tensor result = binned_mutual_information(samples_of(channels), pool);
  const auto of = [&](int i, int j) { return result.const_data_ptr<float>()[i * 20 + j]; };
  EXPECT_GT(of(0, 2), 1.0);                     // a square
  EXPECT_NEAR(of(0, 7), std::log(8), 0.02);     // the same, but for its sign
  EXPECT_NEAR(of(5, 6), std::log(3), 0.02);     // equal, of three values
  EXPECT_EQ(of(0, 4), 0);                       // a constant tells nothing
  EXPECT_LT(of(10, 11), 0.005);                 // independent
  EXPECT_GT(of(0, 1), 0.6);                     // Gaussian with rho^2 = 0.8: 0.80 nats, bins see less
  EXPECT_LT(of(0, 1), 0.82);
}

TEST(BinnedInformation, RefusesWhatItCannotCount) {
  ThreadPool pool(1);
  EXPECT_THROW(binned_mutual_information({}, pool), Error);
  EXPECT_THROW(binned_mutual_information(at::zeros({0, 3}, at::kFloat), pool), Error);
  EXPECT_THROW(binned_mutual_information(at::zeros({4, 3}, at::kBFloat16), pool), Error);
  at::Tensor bad = at::zeros({4, 3}, at::kFloat);
  bad.data_ptr<float>()[5] = NAN;
  EXPECT_THROW(binned_mutual_information(bad, pool), Error);
}

TEST(TokenSample, TakesEveryNthTokenHoweverBatched) {
  at::Tensor all = at::empty({100, 2}, at::kFloat);
  for (std::int64_t i = 0; i < 200; ++i) all.data_ptr<float>()[i] = static_cast<float>(i / 2);
  for (std::int64_t batch : {1, 3, 7, 100}) {
    TokenSample sample(100, 25);
    for (std::int64_t t = 0; t < 100; t += batch) sample.add(all.narrow(0, t, std::min(batch, 100 - t)));
    const at::Tensor rows = sample.rows();
    ASSERT_EQ(rows.size(0), 25);
    for (std::int64_t r = 0; r < 25; ++r) EXPECT_EQ(rows.const_data_ptr<float>()[2 * r], static_cast<float>(4 * r));
  }
  EXPECT_FALSE(TokenSample(10).rows().defined());
}

TEST(InformationWithin, IsTheMeanOverPairsOfAGroup) {
  at::Tensor information = at::zeros({4, 4}, at::kFloat);
  const auto set = [&](int i, int j, float value) {
    information.data_ptr<float>()[i * 4 + j] = information.data_ptr<float>()[j * 4 + i] = value;
  };
  set(0, 1, 0.1f), set(0, 3, 0.2f), set(1, 3, 0.6f), set(0, 2, 9.0f);
  const std::vector<std::int32_t> group = {0, 0, 1, 0};
  const auto within = information_within(information, group, 2);
  EXPECT_NEAR(within[0], 0.3, 1e-6);
  EXPECT_EQ(within[1], 0);
}

TEST(InformationBlocks, AreTheMeansOverPairsOfGroupsOrRunsOfThem) {
  for (const std::int64_t groups : {1, 3, 24, 25, 60}) {
    const std::int64_t n = groups == 60 ? 60 : 70;  // 60: groups of one channel
    std::mt19937 random(static_cast<std::uint32_t>(groups));
    std::uniform_real_distribution<float> uniform(0, 2);
    at::Tensor information = at::zeros({n, n}, at::kFloat);
    float* values = information.data_ptr<float>();
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < i; ++j) values[i * n + j] = values[j * n + i] = uniform(random);
    std::vector<std::int32_t> group(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i) group[static_cast<std::size_t>(i)] = static_cast<std::int32_t>((i * 7) % groups);
    std::vector<std::vector<float>> results;
    for (int threads : {1, 3}) {
      ThreadPool pool(threads);
      results.push_back(information_blocks(information, group, groups, pool));
    }
    EXPECT_EQ(results[0], results[1]);
    const std::int64_t blocks = std::min<std::int64_t>(groups, 24);
    ASSERT_EQ(results[0].size(), static_cast<std::size_t>(blocks * blocks));
    for (std::int64_t a = 0; a < blocks; ++a) {
      for (std::int64_t b = 0; b < blocks; ++b) {
        double sum = 0, pairs = 0;
        for (std::int64_t i = 0; i < n; ++i) {
          for (std::int64_t j = 0; j < n; ++j) {
            if (i == j || group[static_cast<std::size_t>(i)] * blocks / groups != a || group[static_cast<std::size_t>(j)] * blocks / groups != b) continue;
            sum += values[i * n + j], ++pairs;
          }
        }
        ASSERT_NEAR(results[0][static_cast<std::size_t>(a * blocks + b)], pairs > 0 ? sum / pairs : 0, 1e-5) << a << " " << b;
        ASSERT_EQ(results[0][static_cast<std::size_t>(a * blocks + b)], results[0][static_cast<std::size_t>(b * blocks + a)]);
      }
    }
  }
}

bool same_partition(const std::vector<std::int32_t>& a, const std::vector<std::int32_t>& b) {
  std::set<std::pair<int, int>> pairs;
  std::set<int> names_a(a.begin(), a.end()), names_b(b.begin(), b.end());
  for (std::size_t i = 0; i < a.size(); ++i) pairs.insert({a[i], b[i]});
  return pairs.size() == names_a.size() && pairs.size() == names_b.size();
}

TEST(Hierarchical, MatchesThePlainRule) {
  for (std::uint32_t seed = 1; seed <= 12; ++seed) {
    std::mt19937 random(seed);
    std::lognormal_distribution<float> value(0, seed % 2 ? 1.0f : 3.0f);
    const std::size_t n = 5 + random() % 40;
    at::Tensor affinity = at::zeros({static_cast<std::int64_t>(n), static_cast<std::int64_t>(n)}, at::kFloat);
    std::vector<double> naive(n * n, 0.0);
    float* a = affinity.data_ptr<float>();
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = i + 1; j < n; ++j) naive[i * n + j] = naive[j * n + i] = a[i * n + j] = a[j * n + i] = value(random);
    for (std::size_t clusters = 1; clusters <= n; ++clusters) {
      const auto labels = hierarchical_clusters(affinity, static_cast<std::int64_t>(clusters));
      EXPECT_TRUE(same_partition(labels, reference::average_linkage(naive, n, clusters))) << "seed " << seed << " clusters " << clusters;
      EXPECT_EQ(labels[0], 0) << "numbered by first use";
    }
  }
}

TEST(Hierarchical, TiesAndOddInputs) {
  const at::Tensor zero = at::zeros({6, 6}, at::kFloat);
  for (std::int64_t clusters : {1, 3, 6, 9}) {
    const auto labels = hierarchical_clusters(zero, clusters);
    EXPECT_EQ(static_cast<std::int64_t>(std::set<int>(labels.begin(), labels.end()).size()), std::min<std::int64_t>(clusters, 6));
  }
  EXPECT_EQ(hierarchical_clusters(at::zeros({1, 1}, at::kFloat), 1), std::vector<std::int32_t>{0});
  EXPECT_THROW(hierarchical_clusters(zero, 0), UsageError);
  EXPECT_THROW(hierarchical_clusters(at::zeros({2, 3}, at::kFloat), 1), Error);
  EXPECT_THROW(hierarchical_clusters(at::zeros({2, 2}, at::kFloat).fill_(-1), 1), Error);
}

TEST(Hierarchical, ServesBothGroupings) {
  // Two blocks of channels that share much; energies all alike.
  at::Tensor information = at::zeros({8, 8}, at::kFloat);
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 8; ++j)
      if (i != j) information.data_ptr<float>()[i * 8 + j] = i % 2 == j % 2 ? 0.9f : 0.01f;
  const std::vector<double> energy(8, 1.0);
  for (Grouping grouping : {Grouping::MutualInformation, Grouping::MutualInformationEqual}) {
    ThreadPool pool(1);
    GroupingOptions options;
    options.grouping = grouping;
    options.group_size = 4;
    options.clustering = Clustering::Hierarchical;
    const auto group = group_channels(options, energy, information, pool).group_of_channel();
    EXPECT_TRUE(same_partition(group, {0, 1, 0, 1, 0, 1, 0, 1})) << grouping_name(grouping);
  }
}

}  // namespace
}  // namespace miq
