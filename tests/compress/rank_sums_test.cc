// Sums over windows that are shared by several processes: the very bits that one process would have.
#include "miq/compress/rank_sums.h"

#include <gtest/gtest.h>

#include <ATen/core/Tensor.h>
#include <ATen/ops/randn.h>

#include <cmath>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "miq/base/error.h"
#include "miq/compress/channel_statistics.h"
#include "miq/compress/hessian.h"

namespace miq {
namespace {

// Processes as threads of this one: sums alone.
struct Meeting {
  std::mutex mutex;
  std::condition_variable changed;
  int size = 1, arrived = 0, round = 0;
  std::vector<double> sum, result;
};

class ThreadRanks : public Ranks {
 public:
  ThreadRanks(Meeting& meeting, int rank) : meeting_(meeting), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return meeting_.size; }
  using Ranks::sum;
  void sum(std::span<double> values, int to) override {
    std::unique_lock lock(meeting_.mutex);
    const int round = meeting_.round;
    meeting_.sum.resize(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) meeting_.sum[i] += values[i];
    if (++meeting_.arrived == meeting_.size) {
      meeting_.result = std::exchange(meeting_.sum, {});
      meeting_.arrived = 0;
      ++meeting_.round;
      meeting_.changed.notify_all();
    } else {
      meeting_.changed.wait(lock, [&] { return meeting_.round != round; });
    }
    const bool mine = to == kAll || to == rank_;
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = mine ? meeting_.result[i] : std::nan("");
  }

 private:
  Meeting& meeting_;
  const int rank_;
};

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
    Meeting meeting;
    meeting.size = size;
    std::vector<at::Tensor> found(static_cast<std::size_t>(size));
    std::vector<ChannelStatistics> statistics(static_cast<std::size_t>(size));
    const auto work = [&](int rank) {
      ThreadRanks ranks(meeting, rank);
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
    };
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size; ++rank) threads.emplace_back(work, rank);
    for (std::thread& thread : threads) thread.join();
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

TEST(RankSums, EveryProcessNeedsAWindow) {
  Meeting meeting;
  meeting.size = 3;
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
