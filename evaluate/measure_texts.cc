// Plans the windows, walks those that need it, and sums up. A reference keeps what its head reads while it is walked, whether
// that happens for its own perplexity or only because another model is compared with it.
#include "miq/evaluate/measure_texts.h"

#include "miq/base/error.h"

namespace miq {
namespace {

using Losses = std::vector<std::vector<std::vector<float>>>;  // [text][window][position]

std::vector<const WindowPlan*> pointers(const std::vector<WindowPlan>& plans) {
  std::vector<const WindowPlan*> result;
  for (const WindowPlan& plan : plans) result.push_back(&plan);
  return result;
}

// Walks the reference and keeps its states.
void walk_reference(DivergenceReference& reference, const PlannedTexts& planned, const PerplexityOptions& options, ThreadPool& pool,
                    const ProgressFunction& progress, WalkStatistics& statistics) {
  for (std::size_t t = 0; t < planned.plans.size(); ++t) {
    if (!planned.results[t].failed()) reference.make_room(t);
  }
  WalkOptions walk = options.walk;
  walk.observer = [&](std::size_t text, std::size_t window, const at::Tensor& hidden) { reference.keep(text, window, hidden); };
  reference.losses = walk_windows(reference.forward(), pointers(planned.plans), pool, walk, progress, statistics);
}

}  // namespace

TextMeasures measure_texts(const ForwardPass& forward, const std::vector<Text>& texts, const PerplexityOptions& options,
                           DivergenceReference* reference, ThreadPool& pool, const ProgressFunction& progress, WalkStatistics& statistics) {
  if (!reference) return {measure_perplexity(forward, texts, options, pool, progress, statistics), {}};
  const PlannedTexts& theirs = reference->planned(texts, options, pool);
  TextMeasures measures;
  if (&forward.model() == &reference->model()) {
    if (reference->losses.empty()) walk_reference(*reference, theirs, options, pool, progress, statistics);
    measures.perplexity = theirs.results;
    for (std::size_t t = 0; t < texts.size(); ++t) summarise_text(theirs.plans[t], reference->losses[t], measures.perplexity[t]);
    return measures;
  }
  PlannedTexts mine = plan_texts(forward.model(), texts, options, pool);
  measures.divergence.resize(texts.size());
  std::vector<std::vector<TokenDivergence>> tokens(texts.size());
  bool wanted = false;
  for (std::size_t t = 0; t < texts.size(); ++t) {
    Divergence& result = measures.divergence[t];
    result.failure = mine.results[t].failed() ? mine.results[t].failure : reference->mismatch(t, mine.plans[t], forward.model());
    result.comparable = !result.failed();
    tokens[t].resize(mine.plans[t].windows.size());
    wanted |= !result.failed();
  }
  if (wanted && reference->losses.empty()) {
    const ProgressFunction named = [&](const Progress& now) {
      if (progress) progress({"reference, " + std::string(now.stage), now.done, now.total});
    };
    WalkStatistics apart;
    walk_reference(*reference, theirs, options, pool, named, apart);
  }
  WalkOptions walk = options.walk;
  if (wanted) {
    walk.observer = [&](std::size_t text, std::size_t window, const at::Tensor& hidden) {
      if (!measures.divergence[text].failed()) tokens[text][window] = reference->compare(text, window, forward, hidden);
    };
  }
  const Losses losses = walk_windows(forward, pointers(mine.plans), pool, walk, progress, statistics);
  for (std::size_t t = 0; t < texts.size(); ++t) {
    summarise_text(mine.plans[t], losses[t], mine.results[t]);
    Divergence& result = measures.divergence[t];
    if (!result.failed()) result = summarise_divergence(mine.plans[t], tokens[t], losses[t], reference->losses[t]);
    result.text = texts[t].name;
    result.reference = reference->name();
    result.reference_digest = reference->digest;
  }
  measures.perplexity = std::move(mine.results);
  return measures;
}

}  // namespace miq
