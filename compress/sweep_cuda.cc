// The front end of sweep.cc around the CUDA engine.
#include "miq/compress/sweep_cuda.h"

#include "miq/base/error.h"
#include "miq/compress/sweep_cuda_engine.h"
#include "miq/compress/sweep_engine.h"

namespace miq {

bool cuda_sweep_available(std::string* reason) {
  static const std::string problem = cuda_engine_problem();
  if (reason) *reason = problem;
  return problem.empty();
}

std::vector<SweepResult> cuda_sweep(std::span<const SweepMatrix> matrices, const InverseFactor& factor, const SweepOptions& options,
                                    ThreadPool& pool) {
  std::string reason;
  if (!cuda_sweep_available(&reason)) throw Error("the CUDA solver cannot run: " + reason);
  return sweep_with([](std::vector<SweepJob>& jobs, ThreadPool&) { sweep_on_cuda(jobs); }, matrices, factor, options, pool);
}

}  // namespace miq
