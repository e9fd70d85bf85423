// As launch.cc finds the library of MPI.
#include "miq/tools/cuda_kernels.h"

#include <cstdlib>
#include <filesystem>
#include <string>

#include "miq/base/cuda_library.h"

namespace miq {

ComputeDevice with_kernels(at::Device device) {
  if (device.is_cpu()) return {};
  std::string path;
  if (const char* named = std::getenv("MIQ_CUDA_LIBRARY"); named && *named) {
    path = named;
  } else {
    std::error_code ignored;
    const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", ignored);
    path = (program.parent_path().parent_path() / "lib" / "miq" / "libmiq_cuda.so").string();
  }
  return {device, &open_cuda_library(path)};
}

}  // namespace miq
