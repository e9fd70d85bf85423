// Sums over the GPUs of a machine by NCCL (base/device_sums.h), a thread for each in place of a process: whether they are right, and how fast. bench/cuda.sh
// runs it.
//
//   cuda_sums DEVICE KERNELS [MB]       DEVICE: cuda, all visible GPUs; KERNELS: libmiq_cuda.so; MB of float64 that are summed, 512 by default (4 with DEVICE cpu)
//
// One GPU forms a group of one; several form groups of two and of all. With DEVICE cpu the tests' groups of threads stand for NCCL: whether this program
// works, and no figure.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>

#include <cstdio>
#include <mutex>
#include <string>
#include <vector>

#include "bench/cuda_shapes.h"
#include "miq/base/cuda_library.h"
#include "miq/base/device_sums.h"
#include "miq/base/error.h"
#include "miq/model/device.h"
#include "tests/reference/group_emulation.h"

namespace {

using namespace miq;

constexpr int kRounds = 10;

at::Device device_of(int rank, bool real) { return real ? at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(rank)) : at::Device(at::kCPU); }

// Each rank's numbers are its own number and one more; so the sum over n ranks is n (n + 1) / 2.
at::Tensor numbers_of(int rank, std::int64_t count, at::Device device) {
  const at::Tensor numbers = at::full({count}, static_cast<double>(rank + 1), at::TensorOptions(at::kDouble).device(device));
  synchronize(device);
  return numbers;
}

// A process with one GPU never asks for a group: this one is joined by hand, to see that NCCL loads, joins, sums and lets go.
void group_of_one(const MiqCudaGroups& groups, std::int64_t count, bool real) {
  const auto check = [&](int status, const char* what) {
    if (status != 0) throw Error(std::string(what) + ": " + groups.problem());
  };
  char identity[256] = "";
  check(groups.identity(0, identity, sizeof identity), "asking the GPU who it is");
  std::printf("the first GPU is %s\n", identity);
  std::vector<std::uint8_t> id(kMiqGroupIdBytes);
  check(groups.group_id(id.data()), "an id for the group");
  void* group = nullptr;
  check(groups.join_group(0, id.data(), 0, 1, &group), "joining a group of one");
  const at::Tensor numbers = numbers_of(0, count, device_of(0, real));
  for (const int to : {-1, 0}) check(groups.group_sum(group, numbers.data_ptr<double>(), static_cast<std::uint64_t>(count), to), "a sum of one");
  groups.leave_group(group, 0);
  say("group of 1: numbers that are wrong", static_cast<double>((numbers != 1.0).sum().item().toLong()), "(must be 0)");
}

void group_of_several(const MiqCudaGroups& groups, int size, std::int64_t count, bool real) {
  std::mutex mutex;
  const std::string label = "group of " + std::to_string(size);
  std::string failure;
  reference::run_ranks(size, [&](Ranks& ranks) {
    try {
      const at::NoGradGuard no_grad;
      const at::Device device = device_of(ranks.rank(), real);
      std::string why;
      const auto sums = DeviceRanks::join(ranks, &groups, ranks.rank(), why);
      if (!sums) throw Error(label + " could not form: " + why);
      at::Tensor numbers = numbers_of(ranks.rank(), count, device);
      sums->sum_on_device(numbers.data_ptr<double>(), static_cast<std::uint64_t>(count));
      const double expected = size * (size + 1) / 2.0;
      const auto wrong = static_cast<double>((numbers != expected).sum().item().toLong());
      for (const int to : {Ranks::kAll, 0}) {
        numbers.fill_(0.0);
        synchronize(device);
        ranks.barrier();
        const double from = seconds_now();
        for (int i = 0; i < kRounds; ++i) sums->sum_on_device(numbers.data_ptr<double>(), static_cast<std::uint64_t>(count), to);
        ranks.barrier();
        const double seconds = (seconds_now() - from) / kRounds;
        const std::lock_guard lock(mutex);
        if (ranks.first()) say((label + (to == 0 ? ": sum in one" : ": sum in all")).c_str(), static_cast<double>(count) * 8 / seconds * 1e-9, "GB/s of numbers");
      }
      const std::lock_guard lock(mutex);
      say((label + ", GPU " + std::to_string(ranks.rank()) + ": numbers that are wrong").c_str(), wrong, "(must be 0)");
    } catch (const std::exception& error) {
      const std::lock_guard lock(mutex);
      failure = error.what();
    }
  });
  if (!failure.empty()) throw Error(failure);
}

void run(const std::string& device, const std::string& library, std::int64_t count) {
  const DeviceChoice choice = parse_device(device);
  const bool real = choice.kind != DeviceChoice::Kind::Cpu;
  int gpus = 3;
  if (real) {
    open_devices(choice);
    gpus = static_cast<int>(find_cuda_devices().devices.size());
  }
  const MiqCudaGroups& groups = real ? open_cuda_library(library).groups : reference::fake_group_table();
  std::printf("%d GPUs%s\n", gpus, real ? "" : ", of which none is there: no figure here means anything");
  const auto with = [&](int size, const auto& work) {
    reference::FakeGroups fake(size);
    reference::fake_groups() = &fake;
    work();
  };
  with(1, [&] { group_of_one(groups, count, real); });
  if (gpus < 2) std::printf("groups of several: not run, there is one GPU\n");
  if (gpus > 1) with(2, [&] { group_of_several(groups, 2, count, real); });
  if (gpus > 2) with(gpus, [&] { group_of_several(groups, gpus, count, real); });
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3 && argc != 4) throw UsageError("usage: cuda_sums DEVICE KERNELS [MB]; see the head of cuda_sums.cc");
  const at::NoGradGuard no_grad;
  run(argv[1], argv[2], (argc > 3 ? std::stoll(argv[3]) : std::string(argv[1]) == "cpu" ? 4 : 512) * 1000000 / 8);
  return 0;
} catch (const miq::Error& error) {
  std::fprintf(stderr, "cuda_sums: %s\n", error.what());
  return error.exit_code();
} catch (const std::exception& error) {
  std::fprintf(stderr, "cuda_sums: %s\n", error.what());
  return 1;
}
