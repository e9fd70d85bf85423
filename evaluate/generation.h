// What generation costs: time until the first token and for each further one, by a model whose weights stay in memory.
#pragma once

#include <cstdint>
#include <vector>

#include "miq/base/progress.h"
#include "miq/base/thread_pool.h"
#include "miq/model/forward.h"

namespace miq {

struct GenerationRun {
  std::int64_t batch = 1;
  double prompt_tokens_per_second = 0;  // of all sequences' prompts, one after another
  double tokens_per_second = 0;         // new tokens of all sequences, prompts not counted
  double ms_per_token = 0;              // one step: a new token for every sequence
};

struct GenerationSpeed {
  std::int64_t prompt = 0, new_tokens = 0;  // of each sequence
  bool shortened = false;        // the model's maximum length is below kPrompt + kNewTokens
  double load_seconds = 0;       // from opening the file to the first token behind a prompt of one
  std::uint64_t weight_bytes = 0;  // of all weights as they lie in memory; mapped ones included
  std::uint64_t cache_bytes = 0;   // of one sequence's keys and values
  std::vector<GenerationRun> runs;

  static constexpr std::int64_t kPrompt = 512, kNewTokens = 128, kShortest = 4;
  static constexpr std::int64_t kBatches[] = {1, 4};
};

// Bytes of anonymous memory that measure_generation() takes, about: weights that are not mapped as they are, keys and values.
std::uint64_t generation_bytes(const Model& model, ComputeType type);

// Greedy, on arbitrary token ids. `open_seconds` is what opening the model took. REQUIRES a model for kShortest tokens
// or more.
GenerationSpeed measure_generation(const Model& model, ComputeType type, double open_seconds, ThreadPool& pool, const ProgressFunction& progress);

}  // namespace miq
