// Everything that is measured on texts, in one walk of the model: losses, and the divergence from a reference. What the cache has is
// not measured again.
#pragma once

#include <string>
#include <vector>

#include "miq/evaluate/divergence.h"
#include "miq/evaluate/perplexity.h"
#include "miq/evaluate/result_cache.h"

namespace miq {

struct TextMeasures {
  std::vector<Perplexity> perplexity;  // one a text
  std::vector<Divergence> divergence;  // one a text for a model that is compared; empty for the reference itself and without one
  // Of each token, where TextRun::keep_tokens asks for them.
  std::vector<WindowPlan> plans;
  std::vector<std::vector<std::vector<float>>> losses;  // [text][window][scored position]
  std::vector<std::vector<TokenDivergence>> tokens;     // [text][window]; empty ones where nothing was compared
};

struct TextRun {
  // Whom to compare with; may belong to the very model that is measured: then it is filled in the same walk. Null: nobody.
  DivergenceReference* reference = nullptr;
  const CacheOptions* cache = nullptr;  // null: nothing is kept
  std::string weights_digest;           // of the model; needed with a cache, as is the reference's
  bool keep_tokens = false;
};

// A reference whose states are needed and not known is walked first; `statistics` counts the walk of `forward` alone.
// A text that cannot be measured or compared is that text's failure.
TextMeasures measure_texts(const ForwardPass& forward, const std::vector<Text>& texts, const PerplexityOptions& options, const TextRun& run,
                           ThreadPool& pool, const ProgressFunction& progress, WalkStatistics& statistics);

}  // namespace miq
