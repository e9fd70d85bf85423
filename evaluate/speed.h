// Tokens per second of the layer-by-layer pass, from embedding to losses, decoding of layers included.
#pragma once

#include "miq/evaluate/perplexity.h"

namespace miq {

// For models measured without a text: `windows` windows of fixed, arbitrary ids.
Throughput measure_speed(const ForwardPass& forward, std::int64_t seqlen, std::int64_t windows, ThreadPool& pool,
                         const ProgressFunction& progress, const WalkOptions& options = {});

}  // namespace miq
