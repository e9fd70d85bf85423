// Internal to the solver: what sweep() and cuda_sweep() share. The front end checks the input, brings it into
// sweep order and tiles, and collects the results; the engine between does the sweep.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "miq/compress/sweep.h"
#include "miq/compress/sweep_job.h"

namespace miq {

using SweepEngine = std::function<void(std::vector<SweepJob>& jobs, ThreadPool& pool)>;

std::vector<SweepResult> sweep_with(const SweepEngine& engine, std::span<const SweepMatrix> matrices, const InverseFactor& factor,
                                    const SweepOptions& options, ThreadPool& pool);

// The engine behind sweep(); sweep_cpu.cc.
void sweep_on_cpu(std::vector<SweepJob>& jobs, ThreadPool& pool);

}  // namespace miq
