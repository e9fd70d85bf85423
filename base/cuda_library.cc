// As base/ranks_library.cc opens that of MPI. The library links the CUDA runtime statically, and that looks for the driver itself: what can be
// missing when it is opened is the file alone.
#include "miq/base/cuda_library.h"

#include <dlfcn.h>
#include <unistd.h>

#include "miq/base/error.h"

namespace miq {
namespace {

constexpr const char* kRemedy = " (configure with -DMIQ_CUDA=ON), or run with --device cpu";

// The table that the function of this name gives.
template <class Entry>
const auto& table_of(void* library, const char* name, std::uint32_t version, const std::string& path) {
  const auto entry = reinterpret_cast<Entry>(dlsym(library, name));
  if (entry == nullptr) throw Error(path + ": is no library of miq's CUDA kernels, or one of another version");
  const auto* table = entry();
  if (table->version != version) throw Error(path + ": belongs to another version of miq. Build both together" + kRemedy);
  return *table;
}

}  // namespace

CudaLibrary open_cuda_library(const std::string& path) {
  if (access(path.c_str(), R_OK) != 0)
    throw Error(path + ": is not there, so this build has no CUDA kernels. Build them" + kRemedy);
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw Error(path + ": cannot be loaded: " + dlerror());
  return {table_of<MiqCudaEntry>(library, kMiqCudaEntry, kMiqCudaVersion, path),
          table_of<MiqCudaGroupsEntry>(library, kMiqCudaGroupsEntry, kMiqCudaGroupsVersion, path)};
}

void check_cuda(const MiqCudaTable& table, int status, const char* what) {
  if (status != 0) throw Error(std::string("CUDA: ") + what + ": " + table.problem());
}

}  // namespace miq
