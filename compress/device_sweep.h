// The column sweep on a device: the contract of sweep() (sweep.h), with the same arithmetic per weight in the same order, so the same codes, masks
// and values to the bit.
#pragma once

#include <span>
#include <vector>

#include "miq/compress/compute_device.h"
#include "miq/compress/sweep.h"

namespace miq {

// As sweep(); sweep() itself where `where` is the processor. Matrices with the same blocks are swept together, as one tall matrix. The thread
// pool prepares and collects. Throws Error also when the device fails, c10::OutOfMemoryError when it has too little memory.
std::vector<SweepResult> sweep_on(const ComputeDevice& where, std::span<const SweepMatrix> matrices, const InverseFactor& factor,
                                  const SweepOptions& options, ThreadPool& pool);

}  // namespace miq
