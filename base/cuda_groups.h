// The second table of libmiq_cuda.so (cuda_table.h): sums over the GPUs of several processes by NCCL, whose library LibTorch's CUDA part brings.
// base/device_sums.h is the caller. Every function but the last returns 0, or -1 with problem().
#pragma once

#include <cstdint>

extern "C" {

struct MiqCudaGroups {
  std::uint32_t version;  // kMiqCudaGroupsVersion
  const char* (*problem)(void);
  // Which GPU this is: the same text in two processes is the same GPU. Fails where there is no NCCL.
  int (*identity)(int device, char* text, std::uint64_t capacity);
  // What the processes of a group join with, kMiqGroupIdBytes; one of them makes it for all.
  int (*group_id)(std::uint8_t* id);
  // All processes of the group at once, each with a GPU of its own; waits for the others, two minutes at most.
  int (*join_group)(int device, const std::uint8_t* id, int rank, int size, void** group);
  // Each number, which lies on the device, becomes its sum over the group, in the rank `to`, or in all where that is -1; elsewhere it is unspecified. By all
  // together, behind what LibTorch queued before; the sums are there on return.
  int (*group_sum)(void* group, double* values, std::uint64_t count, int to);
  // `abandon`: the others may not be there any more.
  void (*leave_group)(void* group, int abandon);
};

typedef const MiqCudaGroups* (*MiqCudaGroupsEntry)(void);
}

inline constexpr std::uint32_t kMiqCudaGroupsVersion = 1;
inline constexpr std::uint32_t kMiqGroupIdBytes = 128;
inline constexpr const char* kMiqCudaGroupsEntry = "miq_cuda_groups";
