// Sums over windows that are shared by several processes: the very bits that one process would have.
#include "miq/compress/rank_sums.h"

#include <gtest/gtest.h>

#include <ATen/core/Tensor.h>
#include <ATen/ops/randn.h>

#include "miq/base/device_sums.h"
#include "miq/base/error.h"
#include "miq/compress/channel_statistics.h"
#include "miq/compress/hessian.h"
#include "tests/compress/cuda_devices.h"
#include "tests/reference/group_emulation.h"

namespace miq {
namespace {

using reference::Meeting;
using reference::ThreadRanks;

std::vector<at::Tensor> activations(std::int64_t windows, std::int64_t tokens, std::int64_t channels) {
  std::vector<at::Tensor> inputs;
  for (std::int64_t w = 0; w < windows; ++w) {
    at::Tensor x = at::randn({tokens, channels}, at::kFloat);
    x.select(1, 1).mul_(30);  // an outlier channel, one with a mean, and two that go together
    x.select(1, 2).add_(5);
    x.select(1, 3).copy_(x.select(1, 4)).add_(x.select(1, 5), 0.01);
    inputs.push_back(x);
  }
  return inputs;
}

TEST(RankSums, HessiansDoNotDependOnTheNumberOfProcesses) {
  constexpr std::int64_t kWindows = 32, kTokens = 256, kChannels = 150;
  const std::vector<at::Tensor> inputs = activations(kWindows, kTokens, kChannels);
  ThreadPool pool(1);
  HessianSum alone(kChannels);
  for (const at::Tensor& input : inputs) alone.add({&input, 1}, pool);
  ChannelStatistics all;
  for (const at::Tensor& input : inputs) accumulate(all, input, pool);
  const at::Tensor expected = alone.mean();
  for (int size : {2, 3, 4, 7, 32}) {
    std::vector<at::Tensor> found(static_cast<std::size_t>(size));
    std::vector<ChannelStatistics> statistics(static_cast<std::size_t>(size));
    reference::run_ranks(size, [&](Ranks& ranks) {
      const int rank = ranks.rank();
      ThreadPool own(1);
      HessianSum sum(kChannels);
      ChannelStatistics& channels = statistics[static_cast<std::size_t>(rank)];
      for (std::int64_t w = rank; w < kWindows; w += size) {
        sum.add({&inputs[static_cast<std::size_t>(w)], 1}, own);
        accumulate(channels, inputs[static_cast<std::size_t>(w)], own);
      }
      sum.sum_over(ranks);
      sum_over(ranks, channels, kChannels);
      EXPECT_EQ(sum.tokens(), kWindows * kTokens);
      found[static_cast<std::size_t>(rank)] = sum.mean();
    });
    for (const at::Tensor& mean : found) EXPECT_TRUE(mean.equal(expected)) << size << " processes";
    for (const ChannelStatistics& channels : statistics) {
      EXPECT_EQ(channels.tokens, kWindows * kTokens);
      EXPECT_EQ(channels.sum, all.sum);
      EXPECT_EQ(channels.sum_abs, all.sum_abs);
      EXPECT_EQ(channels.sum_squares, all.sum_squares);
      EXPECT_EQ(channels.sum_fourths, all.sum_fourths);
    }
  }
}

// On devices: through host memory and from device to device, in one rank and in all, the same bits as alone.
TEST(RankSums, DeviceSumsAreThoseOfTheHost) {
  constexpr std::int64_t kWindows = 9, kTokens = 96, kChannels = 150;
  const std::vector<at::Tensor> inputs = activations(kWindows, kTokens, kChannels);
  ThreadPool pool(1);
  HessianSum alone(kChannels, emulated_device());
  for (const at::Tensor& input : inputs) alone.add({&input, 1}, pool);
  const at::Tensor expected = alone.mean();
  for (int size : {2, 3}) {
    for (int to : {Ranks::kAll, 1}) {
      reference::FakeGroups groups(size);
      reference::fake_groups() = &groups;
      std::uint64_t through_host = 0;
      reference::run_ranks(size, [&](Ranks& ranks) {
        std::string why;
        const auto direct = DeviceRanks::join(ranks, &reference::fake_group_table(), ranks.rank(), why);
        ASSERT_NE(direct, nullptr) << why;
        ThreadPool own(1);
        for (const bool way : {true, false}) {
          HessianSum sum(kChannels, emulated_device());
          for (std::int64_t w = ranks.rank(); w < kWindows; w += size) sum.add({&inputs[static_cast<std::size_t>(w)], 1}, own);
          const std::uint64_t before = ranks.traffic().summed;
          sum.sum_over(way ? *direct : ranks, to);
          if (ranks.first() && way) through_host = ranks.traffic().summed - before;
          if (to != Ranks::kAll && to != ranks.rank()) continue;
          EXPECT_TRUE(sum.mean().equal(expected)) << size << " processes, " << (way ? "from device to device" : "through host memory");
        }
        EXPECT_EQ(direct->device_bytes(), MomentSum::bytes(kChannels));
      });
      EXPECT_EQ(through_host, sizeof(double)) << "the count of tokens alone";
      EXPECT_EQ(groups.sums, size * static_cast<int>(MomentSum(kChannels, at::kCPU).panels().size()));
    }
  }
}

TEST(RankSums, EveryProcessNeedsAWindow) {
  Meeting meeting(3);
  Calibration calibration;
  calibration.windows.assign(7, std::vector<std::int32_t>(4));
  for (std::int32_t w = 0; w < 7; ++w) calibration.windows[static_cast<std::size_t>(w)][0] = w;
  std::vector<std::int32_t> seen;
  for (int rank = 0; rank < 3; ++rank) {
    const Calibration own = own_windows(ThreadRanks(meeting, rank), calibration);
    EXPECT_EQ(static_cast<std::int64_t>(own.windows.size()), share_of(ThreadRanks(meeting, rank), 7));
    for (const auto& window : own.windows) seen.push_back(window[0]);
  }
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(seen, (std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6}));
  calibration.windows.resize(2);
  EXPECT_THROW(own_windows(ThreadRanks(meeting, 0), calibration), UsageError);
}

}  // namespace
}  // namespace miq
