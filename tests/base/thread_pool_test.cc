#include "miq/base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
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

}  // namespace
}  // namespace miq
