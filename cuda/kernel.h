// What the .cu files of the library share. C++17, because nvcc compiles it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>

#include "miq/base/cuda_groups.h"
#include "miq/base/cuda_table.h"

namespace miq::cuda {

// Why the last function failed, of this thread; returns -1. What the runtime remembers of the failure is cleared.
int failed(const char* what, cudaError_t status);
// The same of what is not the runtime's to say.
int refused(const char* what, const char* why);

inline bool use_device(int device, int& result) {
  const cudaError_t status = cudaSetDevice(device);
  if (status == cudaSuccess) return true;
  result = failed("choosing the device", status);
  return false;
}

// After the launches of one function.
inline int launched(const char* what) {
  const cudaError_t status = cudaGetLastError();
  return status == cudaSuccess ? 0 : failed(what, status);
}

// The functions of the table, one file each.
int sweep(int device, const SweepLaunch* launch, const std::int64_t* blocks, std::int64_t count);
int gaussian_information(int device, const void* second_moment, int wide, const double* mean, const double* inverse_deviation, std::int64_t n,
                         float* out, std::int32_t* bad);
int binned_information(int device, const std::uint8_t* bins, std::int64_t tokens, std::int64_t n, const double* count_logs,
                       const std::int32_t* occupied, const double* log_table, float* out);
int packed_product(int device, const PackedView* view, const float* x, float* y);
int packed_decode(int device, const PackedView* view, int rounding, int wide, void* out);
int identity(int device, char* text, std::uint64_t capacity);
int group_id(std::uint8_t* id);
int join_group(int device, const std::uint8_t* id, int rank, int size, void** group);
int group_sum(void* group, double* values, std::uint64_t count, int to);
void leave_group(void* group, int abandon);

}  // namespace miq::cuda
