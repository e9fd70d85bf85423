// Internal to the solver: the CUDA engine behind cuda_sweep(), and the C++17 border that nvcc compiles. Defined
// by sweep_cuda.cu or, in a build without CUDA, by sweep_no_cuda.cc.
#pragma once

#include <string>
#include <vector>

#include "miq/compress/sweep_job.h"

namespace miq {

// Empty when the engine can run, else the reason why not.
std::string cuda_engine_problem();

// The contract of sweep_on_cpu(). Jobs are solved one after the other on the current device. Throws Error when
// the device fails or has too little memory.
void sweep_on_cuda(std::vector<SweepJob>& jobs);

}  // namespace miq
