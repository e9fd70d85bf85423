// What generation costs: time until the first token and for each further one, by a model whose weights stay in memory.
#pragma once

#include <cstdint>

#include "miq/base/cuda_table.h"
#include "miq/base/progress.h"
#include "miq/base/thread_pool.h"
#include "miq/evaluate/figures.h"
#include "miq/model/forward.h"

namespace miq {

// Bytes of anonymous memory that measure_generation() takes, about: weights that are not mapped as they are, keys and values.
// On a GPU: of its memory, all weights.
std::uint64_t generation_bytes(const Model& model, ComputeType type, at::Device device = at::kCPU);

// Greedy, on arbitrary token ids. `open_seconds` is what opening the model took. REQUIRES a model for kShortest tokens
// or more. `kernels`: as Generator takes them.
GenerationSpeed measure_generation(const Model& model, ComputeType type, double open_seconds, ThreadPool& pool, const ProgressFunction& progress,
                                   at::Device device = at::kCPU, const MiqCudaTable* kernels = nullptr);

}  // namespace miq
