// Stands in for sweep_cuda.cu in a build without CUDA.
#include "miq/base/error.h"
#include "miq/compress/sweep_cuda_engine.h"

namespace miq {

std::string cuda_engine_problem() { return "this build has no CUDA support; configure with -DMIQ_CUDA=ON"; }

void sweep_on_cuda(std::vector<SweepJob>&) { throw Error("the CUDA solver cannot run: " + cuda_engine_problem()); }

}  // namespace miq
