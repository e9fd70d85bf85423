// Everything that is measured on texts, in one walk of the model: losses, and the divergence from a reference.
#pragma once

#include <vector>

#include "miq/evaluate/divergence.h"
#include "miq/evaluate/perplexity.h"

namespace miq {

struct TextMeasures {
  std::vector<Perplexity> perplexity;  // one a text
  std::vector<Divergence> divergence;  // one a text for a model that is compared; empty for the reference itself and without one
};

// `reference` may be null, or belong to `forward`'s model: then it is filled in the same walk. A reference whose states are not
// known yet is walked first; `statistics` counts the walk of `forward` alone.
// A text that cannot be measured or compared is that text's failure.
TextMeasures measure_texts(const ForwardPass& forward, const std::vector<Text>& texts, const PerplexityOptions& options,
                           DivergenceReference* reference, ThreadPool& pool, const ProgressFunction& progress, WalkStatistics& statistics);

}  // namespace miq
