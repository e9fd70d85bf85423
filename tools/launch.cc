// Launchers say in the environment what they started: Open MPI's and MPICH's mpirun, Slurm's srun.
#include "miq/tools/launch.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "miq/base/error.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

std::string library_path() {
  if (const char* named = std::getenv("MIQ_MPI_LIBRARY"); named && *named) return named;
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  return (program.parent_path().parent_path() / "lib" / "miq" / "libmiq_mpi.so").string();
}

}  // namespace

int launched_processes() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}) {
    if (const char* value = std::getenv(name)) return std::max(1, std::atoi(value));
  }
  return 1;
}

std::unique_ptr<LibraryRanks> join_launched(RanksOptions options) {
  const int processes = launched_processes();
  if (processes == 1) return nullptr;
  const std::string library = library_path();
  const std::string started = std::to_string(processes) + " processes were started together, but ";
  if (!fs::exists(library)) {
    throw Error(started + library + " is not there: this build has no MPI. Install MPI (Debian: libopenmpi-dev) and build again, or start one process");
  }
  auto ranks = join_ranks(library, std::move(options));
  if (ranks->size() != processes) {
    throw Error(started + "MPI finds " + std::to_string(ranks->size()) + ". Start them with the mpirun of the MPI that miq was built with, or with srun --mpi=pmix");
  }
  return ranks;
}

int threads_of_share(int local) {
  cpu_set_t set;
  CPU_ZERO(&set);
  const long all = std::max(1L, sysconf(_SC_NPROCESSORS_ONLN));
  const long usable = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : all;
  return static_cast<int>(std::max(1L, std::min(usable, all / std::max(1, local))));
}

}  // namespace miq
