// Devices that tests of kernels run on: loops on the CPU everywhere, and the GPU where there is one and this build has kernels.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "miq/base/cuda_library.h"
#include "miq/base/error.h"
#include "miq/compress/compute_device.h"
#include "miq/model/device.h"
#include "tests/reference/cuda_emulation.h"

namespace miq {

// Beside the folder of the commands in the build tree.
inline std::string cuda_library_of_build() { return (std::filesystem::path(MIQ_TOOLS_DIR).parent_path() / "lib" / "miq" / "libmiq_cuda.so").string(); }

inline ComputeDevice emulated_device() { return {at::Device(at::kCPU), &reference::emulated_cuda()}; }

// A GPU with LibTorch's CUDA part and our kernels; nothing, with the reason, where one of them is missing.
inline std::optional<ComputeDevice> gpu_device(std::string* why) {
  try {
    const MiqCudaTable& kernels = open_cuda_library(cuda_library_of_build()).kernels;
    return ComputeDevice{open_devices(parse_device("cuda")).front(), &kernels};
  } catch (const Error& error) {
    *why = error.what();
  }
  return std::nullopt;
}

}  // namespace miq
