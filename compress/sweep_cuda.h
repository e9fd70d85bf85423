// The column sweep on an NVIDIA GPU: the contract of sweep() (sweep.h), with the same arithmetic per
// weight. Chosen at build time: sweep_cuda.cu where MIQ_CUDA is on, else sweep_no_cuda.cc.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "miq/compress/sweep.h"

namespace miq {

// Whether cuda_sweep() can run here; otherwise `reason` says why not (built without CUDA, no driver, no
// device). Cheap after the first call.
bool cuda_sweep_available(std::string* reason = nullptr);

// As sweep(), on the current device; the thread pool prepares and collects. Throws Error when not
// available or when the device fails or has too little memory.
std::vector<SweepResult> cuda_sweep(std::span<const SweepMatrix> matrices, const InverseFactor& factor, const SweepOptions& options,
                                    ThreadPool& pool);

}  // namespace miq
