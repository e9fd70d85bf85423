// Zero-shot accuracy: which of an item's choices does the model find most likely? As lm-evaluation-harness 0.4 measures it with its
// HFLM class (models/huggingface.py, api/model.py, api/task.py), so that figures equal its own on the same items:
//
//   - context and choice are encoded together, with the tokenizer's special tokens, and the context once more alone; the choice's tokens
//     are what follows the context's number of tokens. White space at the end of the context goes to the choice first. A text that begins
//     with the begin-of-text token gets no second one. An empty context becomes that token (or, where the tokenizer has none, the
//     end-of-text token);
//   - tokens beyond the model's maximum length are cut off on the left;
//   - the log-likelihood is the sum over the choice's tokens; accuracy is the share of items whose likeliest choice (the first of equals)
//     is the answer; the normalised one divides by the choice's code points first; standard errors are sqrt(variance / n), variance over
//     n - 1.
//
// Choices share the computation of what they begin with in common (model/shared_prefix.h). On our own kernels each log-likelihood has
// the bits that it has alone; by LibTorch's products it differs by rounding (in float32 1e-5 of its size), according to which items
// stand together.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "miq/base/progress.h"
#include "miq/base/thread_pool.h"
#include "miq/evaluate/perplexity.h"
#include "miq/evaluate/result_cache.h"
#include "miq/evaluate/zeroshot_tasks.h"
#include "miq/model/forward.h"

namespace miq {

struct ZeroShotOptions {
  std::vector<ZeroShotTask> tasks;
  bool item_scores = false;  // keep each choice's log-likelihood
  WalkOptions walk;
  CacheOptions cache;        // questions that stand together (result_cache.h) are found again together
  std::string weights_digest;  // for the cache
};

// Tokens of one choice: `ids` without the last are what the model reads; the last `scored` are the choice's.
struct EncodedChoice {
  std::vector<std::int32_t> ids;
  std::int64_t scored = 0;
};

// The token that stands for an empty context: the tokenizer's, by its files; where they do not say, the config's.
std::optional<std::int32_t> begin_of_text(const Model& model);

// `begin`: begin_of_text(), which reads files. Throws Error where nothing is left to score, where an empty context has no token to stand for it, and where the choice alone is longer
// than the model's maximum.
EncodedChoice encode_choice(const Model& model, const ScoredText& text, std::optional<std::int32_t> begin);

// One result per task, in order. What goes wrong with one task (a likelihood that is not finite, a choice that cannot be encoded) is its
// failure and leaves the others as they are. The same bits for any number of threads, within any options.walk.memory_bytes, and from the
// cache. Throws Error when the model has no tokenizer, or the memory does not do.
std::vector<ZeroShotResult> measure_zeroshot(const ForwardPass& forward, const ZeroShotOptions& options, ThreadPool& pool,
                                             const ProgressFunction& progress, WalkStatistics& statistics);

}  // namespace miq
