// Processes of a run as threads of one, for tests of what they do together.
#pragma once

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "miq/base/ranks.h"

namespace miq::reference {

struct Meeting {
  explicit Meeting(int ranks) : size(ranks) {}
  const int size;
  std::mutex mutex;
  std::condition_variable changed;
  int arrived = 0, round = 0;
  std::vector<double> sum, result;
  std::map<std::pair<int, int>, std::deque<std::vector<std::uint8_t>>> sent;  // by sender and receiver

  // Every rank's numbers, summed; called by all.
  std::vector<double> sum_of_all(std::span<const double> values) {
    std::unique_lock lock(mutex);
    const int mine = round;
    sum.resize(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) sum[i] += values[i];
    if (++arrived == size) {
      result = std::exchange(sum, {});
      arrived = 0;
      ++round;
      changed.notify_all();
    } else {
      changed.wait(lock, [&] { return round != mine; });
    }
    return result;
  }
};

class ThreadRanks : public Ranks {
 public:
  ThreadRanks(Meeting& meeting, int rank) : meeting_(meeting), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return meeting_.size; }
  int local_size() const override { return meeting_.size; }
  using Ranks::broadcast;
  using Ranks::sum;
  void sum(std::span<double> values, int to = kAll) override {
    traffic_.summed += values.size_bytes();
    const std::vector<double> result = meeting_.sum_of_all(values);
    const bool mine = to == kAll || to == rank_;
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = mine ? result[i] : std::nan("");
  }
  void broadcast(std::span<std::uint8_t> bytes, int from = kFirst) override {
    for (int other = 0; rank_ == from && other < size(); ++other)
      if (other != from) send(bytes, other);
    if (rank_ != from) receive(bytes, from);
  }
  void send(std::span<const std::uint8_t> bytes, int to) override {
    const std::lock_guard lock(meeting_.mutex);
    meeting_.sent[{rank_, to}].emplace_back(bytes.begin(), bytes.end());
    meeting_.changed.notify_all();
  }
  void receive(std::span<std::uint8_t> bytes, int from) override {
    std::unique_lock lock(meeting_.mutex);
    auto& waiting = meeting_.sent[{from, rank_}];
    meeting_.changed.wait(lock, [&] { return !waiting.empty(); });
    std::copy(waiting.front().begin(), waiting.front().end(), bytes.begin());
    waiting.pop_front();
  }
  void barrier() override { meeting_.sum_of_all({}); }

 private:
  Meeting& meeting_;
  const int rank_;
};

// `work` in every rank of a run of so many.
inline void run_ranks(int size, const std::function<void(Ranks& ranks)>& work) {
  Meeting meeting(size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      ThreadRanks ranks(meeting, rank);
      work(ranks);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace miq::reference
