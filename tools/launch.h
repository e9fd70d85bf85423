// Whether a launcher of parallel programs (mpirun, srun) started this process as one of several, and their joining.
#pragma once

#include <memory>

#include "miq/base/ranks_library.h"

namespace miq {

// How many processes the launcher's environment speaks of; 1 where there is none.
int launched_processes();

// Null when this process is alone. Throws Error when it is not, and the library for that (libmiq_mpi.so, in ../lib/miq beside the programs'
// folder, or where MIQ_MPI_LIBRARY says) is missing or does not find the others.
std::unique_ptr<LibraryRanks> join_launched(RanksOptions options);

// Threads for each of `local` processes that share this machine: what this process may use, but no more than its part of all processors.
int threads_of_share(int local);

}  // namespace miq
