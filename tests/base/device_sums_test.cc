// Which way sums between processes go, and what they give, with groups of threads in place of NCCL.
#include "miq/base/device_sums.h"

#include <gtest/gtest.h>

#include <mutex>

#include "miq/base/error.h"
#include "tests/reference/group_emulation.h"

namespace miq {
namespace {

using reference::FakeGroups;

struct Outcome {
  std::vector<bool> joined;
  std::vector<std::string> why;
};

// Every rank on the device of its own number; `on_processor` has none. What joined is left at once.
Outcome join_all(FakeGroups& groups, int on_processor = -1) {
  reference::fake_groups() = &groups;
  const auto size = static_cast<std::size_t>(groups.meeting.size);
  Outcome outcome{std::vector<bool>(size), std::vector<std::string>(size)};
  std::mutex mutex;
  reference::run_ranks(groups.meeting.size, [&](Ranks& ranks) {
    std::string why;
    const auto sums = DeviceRanks::join(ranks, ranks.rank() == on_processor ? nullptr : &reference::fake_group_table(), ranks.rank(), why);
    const std::lock_guard lock(mutex);
    outcome.joined[static_cast<std::size_t>(ranks.rank())] = sums != nullptr;
    outcome.why[static_cast<std::size_t>(ranks.rank())] = why;
  });
  return outcome;
}

void expect_host(const Outcome& outcome, const std::string& why) {
  EXPECT_EQ(outcome.joined, std::vector<bool>(outcome.joined.size(), false));
  EXPECT_EQ(outcome.why, std::vector<std::string>(outcome.why.size(), why));  // all ranks know the same
}

TEST(DeviceSums, GpusOfTheirOwnFormAGroup) {
  FakeGroups groups(3);
  const Outcome outcome = join_all(groups);
  EXPECT_EQ(outcome.joined, std::vector<bool>(3, true));
  EXPECT_EQ(outcome.why, std::vector<std::string>(3));
  EXPECT_EQ(groups.joined, 3);
  EXPECT_EQ(groups.left, 3);
  EXPECT_EQ(groups.abandoned, 0);
}

TEST(DeviceSums, OtherwiseSumsPassThroughTheHost) {
  FakeGroups shared(3);
  shared.shared_gpu = true;
  expect_host(join_all(shared), "process 1 and process 2 share a GPU");
  EXPECT_EQ(shared.joined, 0);

  FakeGroups mixed(3);
  expect_host(join_all(mixed, 1), "process 2: computes on the processor");

  FakeGroups bare(2);
  bare.no_library = true;
  expect_host(join_all(bare), "process 1: as the test wants it");

  FakeGroups anonymous(2);
  anonymous.no_id = true;
  expect_host(join_all(anonymous), "process 1: as the test wants it");
  EXPECT_EQ(anonymous.joined, 0);

  // Those that joined leave without waiting for the one that could not.
  FakeGroups broken(3);
  broken.refuses = 2;
  expect_host(join_all(broken), "process 3: as the test wants it");
  EXPECT_EQ(broken.joined, 2);
  EXPECT_EQ(broken.abandoned, 2);
  EXPECT_EQ(broken.left, 0);
}

TEST(DeviceSums, AloneThereIsNothingToSay) {
  std::string why = "before";
  EXPECT_EQ(DeviceRanks::join(no_other_ranks(), &reference::fake_group_table(), 0, why), nullptr);
  EXPECT_EQ(why, "");
}

TEST(DeviceSums, SumsGoWhereTheyAreWanted) {
  FakeGroups groups(2);
  reference::fake_groups() = &groups;
  reference::run_ranks(2, [&](Ranks& ranks) {
    std::string why;
    const auto sums = DeviceRanks::join(ranks, &reference::fake_group_table(), ranks.rank(), why);
    ASSERT_NE(sums, nullptr);
    std::vector<double> values{1.0 + ranks.rank(), 10.0};
    sums->sum_on_device(values.data(), 2);
    EXPECT_EQ(values, (std::vector<double>{3, 20}));
    sums->sum_on_device(values.data(), 2, 1);
    if (ranks.rank() == 1) {
      EXPECT_EQ(values, (std::vector<double>{6, 40}));
    }
    sums->sum_on_device(nullptr, 0);
    // All else is the others' as before.
    double one = 1;
    sums->sum(std::span(&one, 1));
    EXPECT_EQ(one, 2);
    EXPECT_EQ(sums->broadcast(std::uint64_t{5} + static_cast<std::uint64_t>(sums->rank())), 5u);
    EXPECT_EQ(sums->device_bytes(), 32u);
  });
  EXPECT_EQ(groups.sums, 4);
}

// A rank that fails does not wait for the others.
TEST(DeviceSums, AFailureAbandonsTheGroup) {
  FakeGroups groups(2);
  reference::fake_groups() = &groups;
  reference::run_ranks(2, [&](Ranks& ranks) {
    try {
      std::string why;
      const auto sums = DeviceRanks::join(ranks, &reference::fake_group_table(), ranks.rank(), why);
      throw Error("something else");
    } catch (const Error&) {
    }
  });
  EXPECT_EQ(groups.abandoned, 2);
}

}  // namespace
}  // namespace miq
