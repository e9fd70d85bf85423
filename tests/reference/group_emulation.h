// The groups of base/cuda_groups.h (NCCL) among threads that stand for processes: what is decided and summed without a GPU. Numbers lie in memory; elsewhere
// than where a sum is wanted they become NaN, as they may.
#pragma once

#include <atomic>
#include <cstdio>
#include <cstring>

#include "miq/base/cuda_groups.h"
#include "tests/reference/thread_ranks.h"

namespace miq::reference {

struct FakeGroups {
  explicit FakeGroups(int size) : meeting(size) {}
  Meeting meeting;
  bool shared_gpu = false;  // all processes see the same one
  bool no_library = false, no_id = false;
  int refuses = -1;  // the rank that cannot join
  std::atomic<int> joined{0}, left{0}, abandoned{0}, sums{0};
};

struct FakeMember {
  FakeGroups& groups;
  int rank;
};

// One at a time; the table's functions have no argument that could say which.
inline FakeGroups*& fake_groups() {
  static FakeGroups* groups = nullptr;
  return groups;
}

inline const MiqCudaGroups& fake_group_table() {
  static const MiqCudaGroups table = [] {
    MiqCudaGroups t{};
    t.version = kMiqCudaGroupsVersion;
    t.problem = [] { return "as the test wants it"; };
    t.identity = [](int device, char* text, std::uint64_t capacity) {
      if (fake_groups()->no_library) return -1;
      std::snprintf(text, capacity, "gpu %d", fake_groups()->shared_gpu ? 0 : device);
      return 0;
    };
    t.group_id = [](std::uint8_t* id) {
      std::memset(id, 7, kMiqGroupIdBytes);
      return fake_groups()->no_id ? -1 : 0;
    };
    t.join_group = [](int, const std::uint8_t* id, int rank, int size, void** group) {
      FakeGroups& groups = *fake_groups();
      if (rank == groups.refuses || size != groups.meeting.size || id[0] != 7 || id[kMiqGroupIdBytes - 1] != 7) return -1;
      *group = new FakeMember{groups, rank};
      ++groups.joined;
      return 0;
    };
    t.group_sum = [](void* group, double* values, std::uint64_t count, int to) {
      FakeMember& member = *static_cast<FakeMember*>(group);
      ++member.groups.sums;
      ThreadRanks(member.groups.meeting, member.rank).sum(std::span(values, count), to);
      return 0;
    };
    t.leave_group = [](void* group, int abandon) {
      FakeMember* member = static_cast<FakeMember*>(group);
      ++(abandon ? member->groups.abandoned : member->groups.left);
      delete member;
    };
    return t;
  }();
  return table;
}

}  // namespace miq::reference
