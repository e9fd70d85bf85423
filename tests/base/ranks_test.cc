// One process, and a run of two whose library is a fake: what the watching thread does is seen without any MPI.
#include "miq/base/ranks_library.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <thread>

#include "miq/base/error.h"
#include "miq/base/ranks_table.h"

namespace miq {
namespace {

TEST(Ranks, AloneNothingChanges) {
  Ranks& ranks = no_other_ranks();
  EXPECT_TRUE(ranks.alone());
  EXPECT_TRUE(ranks.first());
  std::vector<float> values{1, 2};
  ranks.sum(values);
  EXPECT_EQ(values, (std::vector<float>{1, 2}));
  EXPECT_EQ(ranks.broadcast(std::string("same")), "same");
  EXPECT_THROW(ranks.send({}, 1), Error);
  EXPECT_EQ(share_of(ranks, 7), 7);
}

TEST(Ranks, SharesCoverAllNumbersEvenly) {
  struct Fixed : Ranks {
    int me, all;
    Fixed(int rank, int size) : me(rank), all(size) {}
    int rank() const override { return me; }
    int size() const override { return all; }
  };
  for (int size : {1, 2, 3, 8}) {
    for (std::int64_t count : {0, 1, 7, 128}) {
      std::int64_t sum = 0;
      for (int r = 0; r < size; ++r) {
        const Fixed ranks(r, size);
        std::int64_t own = 0;
        for (std::int64_t n = 0; n < count; ++n) own += owner_of(ranks, n) == r;
        EXPECT_EQ(share_of(ranks, count), own);
        EXPECT_LE(own, (count + size - 1) / size);
        sum += own;
      }
      EXPECT_EQ(sum, count);
    }
  }
}

TEST(Ranks, JobsAreSpreadByCost) {
  const std::vector<double> costs{1, 8, 2, 3, 1};
  EXPECT_EQ(spread_jobs(costs, 1), (std::vector<int>(5, 0)));
  const std::vector<int> owner = spread_jobs(costs, 2);
  std::vector<double> load(2);
  for (std::size_t j = 0; j < costs.size(); ++j) load[static_cast<std::size_t>(owner[j])] += costs[j];
  EXPECT_EQ(load, (std::vector<double>{8, 7}));
  for (int o : spread_jobs(costs, 9)) EXPECT_LT(o, 9);
}

// Rank 0 of two. The other one is the test.
namespace fake {
std::atomic<int> test_result{1};
std::atomic<int> beats{0};
std::atomic<bool> other_lives{true};
int none() { return 0; }
MiqRanksTable table() {
  MiqRanksTable t{};
  t.version = kMiqRanksVersion;
  t.size = 2;
  t.local_size = 2;
  t.begin_sum = [](double*, std::uint64_t, int) { return 0; };
  t.begin_broadcast = [](void*, std::uint64_t, int) { return 0; };
  t.begin_barrier = none;
  t.test = [] { return test_result.load(); };
  t.problem = [] { return "the wire is cut"; };
  t.post = [](int, const void*, std::uint32_t) { return ++beats, 0; };
  t.take = [](int* from, void* bytes) {
    static std::atomic<int> calls{0};
    if (!other_lives || ++calls % 2 == 0) return -1;
    *from = 1;
    *static_cast<std::uint8_t*>(bytes) = 'B';
    return 1;
  };
  t.abort = [](int code) { std::_Exit(code + 40); };
  t.leave = [] {};
  return t;
}
}  // namespace fake

TEST(LibraryRanks, WaitsAndSaysWhatFailed) {
  const MiqRanksTable table = fake::table();
  LibraryRanks ranks(table, {.beat_seconds = 0.01, .patience_seconds = 5, .lost = {}, .waiting = {}});
  std::vector<double> values(3);
  fake::test_result = 0;
  std::thread later([] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    fake::test_result = 1;
  });
  ranks.sum(values);
  later.join();
  EXPECT_EQ(ranks.traffic().summed, 24u);
  EXPECT_GT(ranks.traffic().seconds, 0.02);
  EXPECT_GT(fake::beats, 0);
  fake::test_result = -1;
  try {
    ranks.barrier();
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("the wire is cut"), std::string::npos);
  }
  fake::test_result = 1;
}

TEST(LibraryRanks, AWaitCanBeInterrupted) {
  const MiqRanksTable table = fake::table();
  LibraryRanks ranks(table, {.beat_seconds = 0.01, .patience_seconds = 5, .lost = {}, .waiting = [] { throw Error("stop"); }});
  fake::test_result = 0;
  EXPECT_THROW(ranks.barrier(), Error);
  fake::test_result = 1;
}

TEST(LibraryRanksDeathTest, ASilentProcessEndsTheRun) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        const MiqRanksTable table = fake::table();
        fake::other_lives = false;
        LibraryRanks ranks(table, {.beat_seconds = 0.02,
                                   .patience_seconds = 0.3,
                                   .lost = [](const std::string& message) { std::fprintf(stderr, "%s\n", message.c_str()); },
                                   .waiting = {}});
        std::this_thread::sleep_for(std::chrono::seconds(20));
      },
      testing::ExitedWithCode(41), "process 2 of 2 has not been heard of");
}

}  // namespace
}  // namespace miq
