// Processes whose GPUs reach each other: numbers that lie there are summed from GPU to GPU (NCCL) instead of through host memory. What is summed is the same:
// of numbers whose additions are exact the same bits.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "miq/base/cuda_groups.h"
#include "miq/base/ranks.h"

namespace miq {

// The ranks of another one, which does everything but the sums on devices. The table of NCCL's groups is our library's (cuda_library.h).
class DeviceRanks : public Ranks {
 public:
  // By all ranks together. `groups` and `device`: of this rank; null where it computes on the processor. Nothing, in all ranks, where sums have to pass
  // through host memory, and `why` then says it: a rank without a GPU or without NCCL, two ranks that share a GPU, or NCCL that could not begin.
  // Alone: nothing, without a reason. `ranks` and `groups` outlive it.
  static std::unique_ptr<DeviceRanks> join(Ranks& ranks, const MiqCudaGroups* groups, int device, std::string& why);

  // Leaves; while an exception is under way without waiting for the others.
  ~DeviceRanks() override;

  // As sum(), `values` on this rank's device. Throws Error where that fails: the numbers are lost, the run ends.
  void sum_on_device(double* values, std::uint64_t count, int to = kAll);
  std::uint64_t device_bytes() const { return bytes_; }  // summed so far

  int rank() const override { return ranks_.rank(); }
  int size() const override { return ranks_.size(); }
  int local_size() const override { return ranks_.local_size(); }
  using Ranks::broadcast;
  using Ranks::sum;
  void sum(std::span<double> values, int to = kAll) override { ranks_.sum(values, to); }
  void broadcast(std::span<std::uint8_t> bytes, int from = kFirst) override { ranks_.broadcast(bytes, from); }
  void send(std::span<const std::uint8_t> bytes, int to) override { ranks_.send(bytes, to); }
  void receive(std::span<std::uint8_t> bytes, int from) override { ranks_.receive(bytes, from); }
  void barrier() override { ranks_.barrier(); }

 private:
  DeviceRanks(Ranks& ranks, const MiqCudaGroups& groups, void* group) : ranks_(ranks), groups_(groups), group_(group) {}

  Ranks& ranks_;
  const MiqCudaGroups& groups_;
  void* group_;
  std::uint64_t bytes_ = 0;
};

}  // namespace miq
