// Tokens per second of the layer-by-layer pass, from embedding to losses, decoding of layers included.
#pragma once

#include "miq/evaluate/perplexity.h"

namespace miq {

struct Throughput {
  double tokens_per_second = 0;
  double seconds = 0;
  std::int64_t tokens = 0, seqlen = 0;
  bool synthetic = false;  // no text was given: arbitrary token ids
};

// For models measured without a text: `windows` windows of fixed, arbitrary ids.
Throughput measure_speed(const ForwardPass& forward, std::int64_t seqlen, std::int64_t windows, ThreadPool& pool,
                         const ProgressFunction& progress, const WalkOptions& options = {});

}  // namespace miq
