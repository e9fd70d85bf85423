// The tables of libmiq_cuda.so, and what is known of the devices.
#include "kernel.h"

namespace miq::cuda {
namespace {

thread_local char problem_text[256] = "";

const char* problem() { return problem_text; }

int devices(int* count, char* found, std::uint64_t capacity) {
  *count = 0;
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  const cudaError_t status = cudaGetDeviceCount(count);
  cudaGetLastError();
  if (driver == 0) {
    std::snprintf(found, capacity, "no NVIDIA driver is installed (CUDA %d.%d needs one)", runtime / 1000, runtime % 1000 / 10);
  } else if (status != cudaSuccess) {
    *count = 0;
    std::snprintf(found, capacity, "a driver for CUDA %d.%d, but no usable device: %s", driver / 1000, driver % 1000 / 10, cudaGetErrorString(status));
  } else {
    std::snprintf(found, capacity, "%d devices, driver for CUDA %d.%d", *count, driver / 1000, driver % 1000 / 10);
  }
  return 0;
}

const MiqCudaTable table = {kMiqCudaVersion, problem, devices, sweep, gaussian_information, binned_information, packed_product, packed_decode};
const MiqCudaGroups groups = {kMiqCudaGroupsVersion, problem, identity, group_id, join_group, group_sum, leave_group};

}  // namespace

int failed(const char* what, cudaError_t status) {
  std::snprintf(problem_text, sizeof problem_text, "%s: %s", what, cudaGetErrorString(status));
  cudaGetLastError();
  return -1;
}

int refused(const char* what, const char* why) {
  std::snprintf(problem_text, sizeof problem_text, "%s: %s", what, why);
  return -1;
}

}  // namespace miq::cuda

extern "C" __attribute__((visibility("default"))) const MiqCudaTable* miq_cuda_table(void) { return &miq::cuda::table; }
extern "C" __attribute__((visibility("default"))) const MiqCudaGroups* miq_cuda_groups(void) { return &miq::cuda::groups; }
