#include "miq/base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

namespace miq {
namespace {

TEST(ThreadPool, RunsEveryUnitOnceForAnyNumberOfThreads) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (int units : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> calls(units);
      pool.for_each(units, [&](std::int64_t unit) { ++calls[unit]; });
      for (auto& count : calls) EXPECT_EQ(count, 1);
    }
  }
}

TEST(ThreadPool, RethrowsTheLowestFailingUnit) {
  ThreadPool pool(4);
  for (int round = 0; round < 100; ++round) {
    try {
      pool.for_each(50, [](std::int64_t unit) {
        if (unit >= 3) throw std::runtime_error(std::to_string(unit));
      });
      FAIL() << "nothing was thrown";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "3");
    }
  }
}

TEST(ThreadPool, NestedCallsRunInline) {
  ThreadPool pool(3);
  std::atomic<int> calls{0};
  pool.for_each(5, [&](std::int64_t) { pool.for_each(5, [&](std::int64_t) { ++calls; }); });
  EXPECT_EQ(calls, 25);
}

// Short jobs one after another, with pauses in which workers fall asleep or not, from several threads.
TEST(ThreadPool, ManySmallJobsLoseNothing) {
  ThreadPool pool(4);
  std::vector<std::thread> callers;
  std::atomic<std::int64_t> sum{0};
  for (int caller = 0; caller < 2; ++caller) {
    callers.emplace_back([&, caller] {
      for (int round = 0; round < 3000; ++round) {
        const std::int64_t units = 1 + round % 5;
        std::vector<std::int64_t> made(static_cast<std::size_t>(units));  // written without atomics: a race would show
        pool.for_each(units, [&](std::int64_t unit) { made[static_cast<std::size_t>(unit)] = unit + 1; });
        for (std::int64_t value : made) sum += value;
        if (round % 100 == caller * 50) std::this_thread::sleep_for(std::chrono::microseconds(round));
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum, 2 * 3000 / 5 * (1 + 3 + 6 + 10 + 15));
}

}  // namespace
}  // namespace miq
