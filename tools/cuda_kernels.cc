// As launch.cc finds the library of MPI.
#include "miq/tools/cuda_kernels.h"

#include <cstdlib>
#include <filesystem>
#include <string>

#include "miq/base/cuda_library.h"
#include "miq/base/error.h"

namespace miq {
namespace {

std::string library_path() {
  if (const char* named = std::getenv("MIQ_CUDA_LIBRARY"); named && *named) return named;
  std::error_code ignored;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", ignored);
  return (program.parent_path().parent_path() / "lib" / "miq" / "libmiq_cuda.so").string();
}

}  // namespace

ComputeDevice with_kernels(at::Device device) {
  if (device.is_cpu()) return {};
  return {device, &open_cuda_library(library_path()).kernels};
}

const MiqCudaTable* kernels_if_there(at::Device device, Session& session) {
  try {
    return with_kernels(device).kernels;
  } catch (const Error& error) {
    session.message_function()(std::string("packed weights are decoded on the processor, and generation multiplies dense ones: ") + error.what());
  }
  return nullptr;
}

std::unique_ptr<DeviceRanks> ranks_on_devices(const ComputeDevice& where, Session& session) {
  std::string why;
  const MiqCudaGroups* groups = where.used() ? &open_cuda_library(library_path()).groups : nullptr;
  auto ranks = DeviceRanks::join(session.ranks(), groups, where.index(), why);
  if (ranks) session.message_function()("sums between the processes go from GPU to GPU (NCCL)");
  if (!why.empty()) session.message_function()("sums between the processes pass through host memory: " + why);
  return ranks;
}

}  // namespace miq
