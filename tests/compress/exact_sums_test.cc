// Sums whose bits do not depend on the order of what is added: against the plain reference, in random orders and partitions, and beyond the range in
// which they are exact.
#include "miq/compress/exact_sums.h"

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "miq/compress/hessian.h"
#include "tests/compress/solver_inputs.h"
#include "tests/reference/exact_sums_reference.h"

namespace miq {
namespace {

TEST(ExactSums, NumbersKeep24Bits) {
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal;
  for (int i = 0; i < 10000; ++i) {
    const double value = std::ldexp(normal(random), static_cast<int>(random() % 200) - 100);
    EXPECT_EQ(to_24_bits(value), reference::in_24_bits(value));
    EXPECT_EQ(to_24_bits(to_24_bits(value)), to_24_bits(value));
  }
  EXPECT_EQ(to_24_bits(0.0), 0.0);
  EXPECT_EQ(to_24_bits(-1.0), -1.0);
  EXPECT_EQ(to_24_bits(INFINITY), INFINITY);
}

TEST(ExactSums, StepsFollowTheEnergy) {
  std::mt19937 random(2);
  std::vector<float> energies{1.0f, 2.0f, 4.0f, 0.5f, 1.5f, 3.999f, 1e-30f, 1e30f};
  for (int i = 0; i < 1000; ++i) energies.push_back(std::ldexp(1 + static_cast<float>(random() % 1000) / 1000, static_cast<int>(random() % 200) - 100));
  const at::Tensor steps = grid_steps(at::from_blob(energies.data(), {static_cast<std::int64_t>(energies.size())}, at::TensorOptions(at::kFloat)));
  for (std::size_t i = 0; i < energies.size(); ++i) {
    const double step = grid_step(energies[i]), share = step * step / energies[i];
    EXPECT_EQ(step, reference::step_of(energies[i])) << energies[i];
    EXPECT_GT(share, std::ldexp(1.0, -26));
    EXPECT_LE(share, std::ldexp(1.0, -24));
    EXPECT_EQ(steps.const_data_ptr<float>()[i], static_cast<float>(step));
  }
  EXPECT_GT(grid_step(0), 0);  // entries of a silent channel are 0, which is on every grid
}

// Windows of channels 12 decades apart, loud and quiet ones.
std::vector<at::Tensor> windows_of(std::int64_t count, std::int64_t channels, double loudness, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<at::Tensor> windows;
  for (std::int64_t w = 0; w < count; ++w) {
    at::Tensor x = random_inputs(5 + static_cast<std::int64_t>(random() % 60), channels, seed * 1000 + static_cast<unsigned>(w));
    for (std::int64_t j = 0; j < channels; ++j) x.select(1, j).mul_(std::pow(10.0, static_cast<double>(j % 13) - 6));
    x.mul_(std::exp2(std::uniform_real_distribution<double>(-loudness, loudness)(random)));
    x.select(1, w % channels).zero_();  // silent in some
    windows.push_back(x);
  }
  return windows;
}

void add_part(MomentSum& sum, const reference::Part& part) {
  const std::int64_t n = sum.size();
  std::vector<float> steps(part.steps.begin(), part.steps.end());
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t first = i / MomentSum::edge(n) * MomentSum::edge(n);
    add_on_grid(part.entries.data() + i * n + first, steps[static_cast<std::size_t>(i)], steps.data() + first, n - first, sum.entry(i, first));
  }
}

bool same(const MomentSum& a, const MomentSum& b) {
  for (std::size_t p = 0; p < a.panels().size(); ++p) {
    if (!a.panels()[p].values.equal(b.panels()[p].values)) return false;
  }
  return true;
}

TEST(ExactSums, EveryOrderAndPartitionGivesTheSameBits) {
  constexpr std::int64_t n = 60, kWindows = 40;  // two panels
  std::vector<reference::Part> parts;
  for (const at::Tensor& x : windows_of(kWindows, n, 3.5, 3)) parts.push_back(reference::part_of(x.const_data_ptr<float>(), x.size(0), n));
  MomentSum together(n, at::kCPU);
  for (const reference::Part& part : parts) add_part(together, part);

  std::vector<std::size_t> order(parts.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::mt19937 random(4);
  for (std::size_t groups : {1, 2, 3, 4, 7}) {
    for (int round = 0; round < 10; ++round) {
      std::shuffle(order.begin(), order.end(), random);
      std::vector<MomentSum> sums;
      for (std::size_t g = 0; g < groups; ++g) sums.emplace_back(n, at::kCPU);
      for (std::size_t w : order) add_part(sums[random() % groups], parts[w]);
      std::shuffle(sums.begin(), sums.end(), random);
      for (std::size_t g = 1; g < groups; ++g) {
        for (std::size_t p = 0; p < sums[g].panels().size(); ++p) sums.front().panels()[p].values.add_(sums[g].panels()[p].values);
      }
      EXPECT_TRUE(same(sums.front(), together)) << groups;
    }
  }

  // What rounding took: less than 2^-25 of the channels' energies in each part.
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = i; j < n; ++j) {
      long double exact = 0, bound = 0;
      double plain = 0;
      const auto at = static_cast<std::size_t>(i * n + j);
      for (const reference::Part& part : parts) {
        const double si = part.steps[static_cast<std::size_t>(i)], sj = part.steps[static_cast<std::size_t>(j)];
        exact += part.entries[at];
        bound += static_cast<long double>(si) * sj / 2;
        plain += reference::on_grid(part.entries[at], si * sj);
      }
      const double sum = *together.entry(i, j);
      EXPECT_EQ(sum, plain);
      EXPECT_LE(std::abs(sum - exact), bound);
    }
  }
}

// A channel whose energy differs by more than 2^27 between windows: the sum is as good as any in float64, and the others' bits stay the same.
TEST(ExactSums, BeyondTheRangeTheSumIsStillRight) {
  constexpr std::int64_t n = 10, kWindows = 12;
  std::vector<at::Tensor> windows = windows_of(kWindows, n, 2, 5);
  for (std::size_t w = 0; w < windows.size(); ++w) windows[w].select(1, 3).mul_(std::exp2(static_cast<double>(w % 4) * 12));
  std::vector<reference::Part> parts;
  for (const at::Tensor& x : windows) parts.push_back(reference::part_of(x.const_data_ptr<float>(), x.size(0), n));
  std::mt19937 random(6);
  MomentSum first(n, at::kCPU);
  for (const reference::Part& part : parts) add_part(first, part);
  for (int round = 0; round < 20; ++round) {
    std::shuffle(parts.begin(), parts.end(), random);
    MomentSum sum(n, at::kCPU);
    for (const reference::Part& part : parts) add_part(sum, part);
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = i; j < n; ++j) {
        if (i != 3 && j != 3) EXPECT_EQ(*sum.entry(i, j), *first.entry(i, j));
        long double exact = 0, bound = 0;
        for (const reference::Part& part : parts) {
          const float entry = part.entries[static_cast<std::size_t>(i * n + j)];
          exact += entry;
          bound += std::abs(static_cast<long double>(entry)) * kWindows * 0x1p-53L + static_cast<long double>(part.steps[static_cast<std::size_t>(i)]) * part.steps[static_cast<std::size_t>(j)] / 2;
        }
        EXPECT_LE(std::abs(*sum.entry(i, j) - exact), bound);
      }
    }
  }
}

TEST(ExactSums, ADevicesFormIsTheSame) {
  constexpr std::int64_t n = 100;
  const reference::Part part = reference::part_of(windows_of(1, n, 2, 7).front().const_data_ptr<float>(), 5, n);
  MomentSum by_rows(n, at::kCPU), by_panels(n, at::kCPU);
  at::Tensor entries = at::empty({n, n}, at::kFloat), steps = at::empty({n}, at::kDouble);
  std::copy(part.entries.begin(), part.entries.end(), entries.mutable_data_ptr<float>());
  std::copy(part.steps.begin(), part.steps.end(), steps.mutable_data_ptr<double>());
  for (int times = 0; times < 3; ++times) {
    add_part(by_rows, part);
    for (MomentSum::Panel& panel : by_panels.panels()) by_panels.add_panel(panel, entries.narrow(0, panel.first, panel.values.size(0)).narrow(1, panel.first, n - panel.first), steps);
  }
  EXPECT_TRUE(same(by_rows, by_panels));
  std::uint64_t bytes = 0;
  for (const MomentSum::Panel& panel : by_rows.panels()) bytes += static_cast<std::uint64_t>(panel.values.nbytes());
  EXPECT_EQ(MomentSum::bytes(n), bytes);
  EXPECT_LT(MomentSum::bytes(4096), 4.3 * 4096 * 4096);
  // What bench/scale_out.py counts of a layer of SmolLM2 (summed_entries): change both.
  EXPECT_EQ(3 * MomentSum::bytes(576) + MomentSum::bytes(1536), 15'925'248u);
  const at::Tensor mean = by_rows.mean(7);
  EXPECT_TRUE(mean.equal(mean.t()));
  EXPECT_EQ(mean.const_data_ptr<float>()[n + 2], static_cast<float>(*by_rows.entry(1, 2) / 7));
}

// An expert may see one token of a window, in which a channel is nearly 0 by chance.
TEST(ExactSums, PartsOfFewTokens) {
  constexpr std::int64_t n = 50;
  std::vector<at::Tensor> windows;
  for (unsigned w = 0; w < 200; ++w) windows.push_back(random_matrix(w % 10 == 0 ? 60 : 1 + static_cast<std::int64_t>(w % 3), n, w));
  for (std::size_t w = 1; w < windows.size(); w += 2) windows[w].select(1, static_cast<std::int64_t>(w) % n).mul_(1e-7);
  ThreadPool pool(1);
  std::mt19937 random(9);
  at::Tensor first, exact = at::zeros({n, n}, at::kDouble);
  double tokens = 0;
  for (const at::Tensor& x : windows) {
    const at::Tensor wide = x.to(at::kDouble);
    exact.add_(wide.t().mm(wide));
    tokens += static_cast<double>(x.size(0));
  }
  for (int round = 0; round < 5; ++round) {
    HessianSum sum(n);
    sum.add(windows, pool);
    const at::Tensor mean = sum.mean();
    if (!first.defined()) first = mean;
    EXPECT_TRUE(mean.equal(first));
    std::shuffle(windows.begin(), windows.end(), random);
  }
  EXPECT_LT((first.to(at::kDouble) - exact.div(tokens)).abs().max().item<double>(), 1e-6);
}

// The Hessian of windows in any order, in any number of calls, on any number of threads.
TEST(ExactSums, HessiansHaveNoOrder) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (std::int64_t n : {20, 150, 300}) {
      std::vector<at::Tensor> windows;
      for (unsigned w = 0; w < 12; ++w) windows.push_back(random_inputs(20 + w, n, w).to(type));
      at::Tensor first;
      std::mt19937 random(8);
      for (int threads : {1, 2, 3}) {
        ThreadPool pool(threads);
        HessianSum sum(n);
        for (std::size_t w = 0, count = 0; w < windows.size(); w += count) {
          count = std::min<std::size_t>(static_cast<std::size_t>(threads), windows.size() - w);
          sum.add(std::span(windows).subspan(w, count), pool);
        }
        const at::Tensor mean = sum.mean();
        if (!first.defined()) first = mean;
        EXPECT_TRUE(mean.equal(first));
        std::shuffle(windows.begin(), windows.end(), random);
      }
    }
  }
}

}  // namespace
}  // namespace miq
