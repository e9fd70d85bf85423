// Our kernels on NVIDIA GPUs, in a library that is opened when a device is asked for: one installation runs with and without one.
#pragma once

#include <string>

#include "miq/base/cuda_groups.h"
#include "miq/base/cuda_table.h"

namespace miq {

// What it offers; valid for good.
struct CudaLibrary {
  const MiqCudaTable& kernels;
  const MiqCudaGroups& groups;  // sums between GPUs (device_sums.h)
};

// Opens the library, for good. Throws Error that says what is missing: the file, what it needs, or its version.
CudaLibrary open_cuda_library(const std::string& path);

// Throws Error where a function of the table failed: "CUDA: WHAT: PROBLEM".
void check_cuda(const MiqCudaTable& table, int status, const char* what);

}  // namespace miq
