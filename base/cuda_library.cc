// As base/ranks_library.cc opens that of MPI. The library links the CUDA runtime statically, and that looks for the driver itself: what can be
// missing when it is opened is the file alone.
#include "miq/base/cuda_library.h"

#include <dlfcn.h>
#include <unistd.h>

#include "miq/base/error.h"

namespace miq {

const MiqCudaTable& open_cuda_library(const std::string& path) {
  constexpr const char* kRemedy = " (configure with -DMIQ_CUDA=ON), or run with --device cpu";
  if (access(path.c_str(), R_OK) != 0)
    throw Error(path + ": is not there, so this build has no CUDA kernels. Build them" + kRemedy);
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) throw Error(path + ": cannot be loaded: " + dlerror());
  const auto entry = reinterpret_cast<MiqCudaEntry>(dlsym(handle, kMiqCudaEntry));
  if (entry == nullptr) throw Error(path + ": is no library of miq's CUDA kernels");
  const MiqCudaTable* table = entry();
  if (table->version != kMiqCudaVersion) throw Error(path + ": belongs to another version of miq. Build both together" + kRemedy);
  return *table;
}

void check_cuda(const MiqCudaTable& table, int status, const char* what) {
  if (status != 0) throw Error(std::string("CUDA: ") + what + ": " + table.problem());
}

}  // namespace miq
