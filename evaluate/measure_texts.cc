// Plans the windows, walks those whose results are not known, and sums up. A reference keeps what its head reads while it is walked,
// whether that happens for its own perplexity or only because another model is compared with it.
#include "miq/evaluate/measure_texts.h"

#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>
#include <utility>

#include "miq/base/error.h"
#include "miq/evaluate/rank_lists.h"

namespace miq {
namespace {

using Losses = std::vector<std::vector<std::vector<float>>>;  // [text][window][position]

// Of windows, as keys of the cache: [text][window].
std::vector<std::vector<std::string>> window_digests(const std::vector<WindowPlan>& plans) {
  std::vector<std::vector<std::string>> digests(plans.size());
  for (std::size_t t = 0; t < plans.size(); ++t) {
    for (const Window& window : plans[t].windows) digests[t].push_back(window_digest(plans[t].ids(window), window.first));
  }
  return digests;
}

std::size_t scored(const Window& window) {
  const auto length = static_cast<std::int64_t>(window.length);
  return length - 1 > window.first ? static_cast<std::size_t>(length - 1 - window.first) : 0;
}

// What rank 0's cache knows, known to all: [text][window], empty where nothing is.
Losses share_known(Ranks& ranks, Losses known) {
  std::vector<std::vector<float>*> lists;
  for (auto& text : known) {
    for (auto& window : text) lists.push_back(&window);
  }
  share_lists(ranks, lists, std::vector<int>(lists.size(), Ranks::kFirst));
  return known;
}

// What the process that has a window says of it, for all: whether it is needed.
std::vector<std::vector<bool>> share_needs(Ranks& ranks, const std::vector<WindowPlan>& plans, const std::function<bool(std::size_t, std::size_t)>& needed) {
  std::vector<std::vector<bool>> all(plans.size());
  std::vector<double> flags;
  for (std::size_t t = 0; t < plans.size(); ++t) {
    for (std::size_t w = 0; w < plans[t].windows.size(); ++w) {
      flags.push_back(owner_of(ranks, static_cast<std::int64_t>(w)) == ranks.rank() && needed && needed(t, w) ? 1 : 0);
    }
  }
  ranks.sum(flags);
  std::size_t next = 0;
  for (std::size_t t = 0; t < plans.size(); ++t) {
    for (std::size_t w = 0; w < plans[t].windows.size(); ++w) all[t].push_back(flags[next++] > 0);
  }
  return all;
}

// The walk of the windows that need it.
struct Walk {
  const ForwardPass& forward;
  const std::vector<WindowPlan>& plans;
  const PerplexityOptions& options;
  const CacheOptions& cache;
  const Losses* known;  // from before; may be null
  std::function<bool(std::size_t text, std::size_t window)> needed;  // even where its losses are known
  std::function<void(std::size_t text)> starting;                    // before any window is walked
  std::function<void(std::size_t text, std::size_t window, const at::Tensor& hidden)> observer;
  // Of what the observer found: given, and taken from other processes.
  std::function<std::vector<float>(std::size_t text, std::size_t window)> observed;
  std::function<void(std::size_t text, std::size_t window, const std::vector<float>& values)> take_observed;
  std::function<void(std::size_t text, std::size_t window)> finished;  // in the calling thread, behind the observer
  std::function<void()> batch_ended;
};

// Losses of all windows. Those walked are kept in `results`.
Losses walk_unknown(const Walk& walk, WindowResults& results, ThreadPool& pool, const ProgressFunction& progress, WalkStatistics& statistics) {
  const auto digests = window_digests(walk.plans);
  Losses losses(walk.plans.size());
  Ranks& ranks = walk.options.walk.group();
  Losses cached(walk.plans.size());
  for (std::size_t t = 0; t < walk.plans.size(); ++t) {
    cached[t].resize(walk.plans[t].windows.size());
    for (std::size_t w = 0; !walk.known && w < cached[t].size(); ++w) {
      if (const std::vector<float>* found = results.find(digests[t][w], scored(walk.plans[t].windows[w]))) cached[t][w] = *found;
    }
  }
  if (!walk.known) cached = share_known(ranks, std::move(cached));
  const auto needed = share_needs(ranks, walk.plans, walk.needed);
  std::vector<WindowPlan> rest(walk.plans.size());
  std::vector<std::vector<std::size_t>> numbers(walk.plans.size());  // of rest's windows in the plan
  for (std::size_t t = 0; t < walk.plans.size(); ++t) {
    const WindowPlan& plan = walk.plans[t];
    losses[t].resize(plan.windows.size());
    for (std::size_t w = 0; w < plan.windows.size(); ++w) {
      losses[t][w] = walk.known ? (*walk.known)[t][w] : cached[t][w];
      const bool known = walk.known || !losses[t][w].empty();
      if (known && !needed[t][w]) continue;
      rest[t].windows.push_back(plan.windows[w]);
      numbers[t].push_back(w);
    }
    if (numbers[t].empty()) continue;
    rest[t].tokens = plan.tokens;
    if (walk.starting) walk.starting(t);
  }
  std::vector<const WindowPlan*> pointers;
  bool any = false;
  for (const WindowPlan& plan : rest) {
    pointers.push_back(&plan);
    any |= !plan.windows.empty();
  }
  if (!any) return losses;
  WalkOptions options = walk.options.walk;
  if (walk.observer) {
    options.observer = [&](std::size_t t, std::size_t i, const at::Tensor& hidden) { walk.observer(t, numbers[t][i], hidden); };
  }
  options.number = [&](std::size_t t, std::size_t i) { return numbers[t][i]; };
  if (walk.observed) {
    options.observed = [&](std::size_t t, std::size_t i) { return walk.observed(t, numbers[t][i]); };
    options.take_observed = [&](std::size_t t, std::size_t i, const std::vector<float>& values) { walk.take_observed(t, numbers[t][i], values); };
  }
  if (walk.cache.on()) {
    options.finished = [&](std::size_t t, std::size_t i, const std::vector<float>& found) {
      results.add(digests[t][numbers[t][i]], found);
      if (walk.finished) walk.finished(t, numbers[t][i]);
    };
    options.batch_ended = [&] {
      results.store();
      if (walk.batch_ended) walk.batch_ended();
    };
  }
  Losses walked = walk_windows(walk.forward, pointers, pool, options, progress, statistics);
  for (std::size_t t = 0; t < rest.size(); ++t) {
    for (std::size_t i = 0; i < numbers[t].size(); ++i) losses[t][numbers[t][i]] = std::move(walked[t][i]);
  }
  return losses;
}

// Divergences as they are kept: those of all tokens, then 1 or 0 for each.
std::vector<float> values_of(const TokenDivergence& tokens) {
  std::vector<float> values = tokens.divergence;
  for (const std::uint8_t same : tokens.same_top) values.push_back(same ? 1.0f : 0.0f);
  return values;
}

TokenDivergence tokens_of(const std::vector<float>& values) {
  const auto half = static_cast<std::ptrdiff_t>(values.size() / 2);
  TokenDivergence tokens{{values.begin(), values.begin() + half}, {}};
  for (auto value = values.begin() + half; value != values.end(); ++value) tokens.same_top.push_back(*value != 0 ? 1 : 0);
  return tokens;
}

using Chosen = std::function<bool(std::size_t text, std::size_t window)>;

// Losses of the reference, and the states of at least the windows that are `needed`.
void walk_reference(DivergenceReference& reference, const PlannedTexts& planned, const PerplexityOptions& options, const CacheOptions& cache,
                    const Chosen& needed, ThreadPool& pool, const ProgressFunction& progress, WalkStatistics& statistics) {
  WindowResults results(cache, loss_subject(reference.forward(), reference.digest, cache));
  const Walk walk{.forward = reference.forward(),
                  .plans = planned.plans,
                  .options = options,
                  .cache = cache,
                  .known = reference.losses.empty() ? nullptr : &reference.losses,
                  .needed = [&](std::size_t t, std::size_t w) { return needed && needed(t, w) && !reference.kept(t, w); },
                  .starting = [&](std::size_t t) { reference.make_room(t); },
                  .observer = [&](std::size_t t, std::size_t w, const at::Tensor& hidden) { reference.keep(t, w, hidden); },
                  .observed = {},
                  .take_observed = {},
                  .finished = {},
                  .batch_ended = {}};
  reference.losses = walk_unknown(walk, results, pool, progress, statistics);
}

// One model compared with the reference, on the texts where that is possible.
class Comparison {
 public:
  Comparison(const ForwardPass& forward, DivergenceReference& reference, const PlannedTexts& mine, const TextRun& run, const CacheOptions& cache, Ranks& ranks)
      : forward_(forward), reference_(reference), mine_(mine), digests_(window_digests(mine.plans)), tokens_(mine.plans.size()) {
    for (std::size_t t = 0; t < mine.plans.size(); ++t) {
      Divergence& figures = figures_.emplace_back();
      figures.failure = mine.results[t].failed() ? mine.results[t].failure : reference.mismatch(t, mine.plans[t], forward.model());
      figures.comparable = !figures.failed();
      tokens_[t].resize(mine.plans[t].windows.size());
      any_ |= figures.comparable;
    }
    if (!any_) return;
    const Json subject = divergence_subject(loss_subject(forward, run.weights_digest, cache), loss_subject(reference.forward(), reference.digest, cache));
    results_ = WindowResults(cache, subject);
    Losses known(tokens_.size());
    for (std::size_t t = 0; t < tokens_.size(); ++t) {
      known[t].resize(tokens_[t].size());
      for (std::size_t w = 0; w < tokens_[t].size(); ++w) {
        if (const std::vector<float>* found = results_.find(digests_[t][w], 2 * scored(mine.plans[t].windows[w]))) known[t][w] = *found;
      }
    }
    known = share_known(ranks, std::move(known));
    for (std::size_t t = 0; t < tokens_.size(); ++t) {
      for (std::size_t w = 0; w < tokens_[t].size(); ++w) {
        if (!known[t][w].empty()) tokens_[t][w] = tokens_of(known[t][w]);
      }
    }
  }

  bool any() const { return any_; }
  bool missing(std::size_t t, std::size_t w) const {
    return figures_[t].comparable && tokens_[t][w].divergence.size() != scored(mine_.plans[t].windows[w]);
  }
  void measure(std::size_t t, std::size_t w, const at::Tensor& hidden) {
    if (missing(t, w)) tokens_[t][w] = reference_.compare(t, w, forward_, hidden);
  }
  std::vector<float> values(std::size_t t, std::size_t w) const { return values_of(tokens_[t][w]); }
  void take(std::size_t t, std::size_t w, const std::vector<float>& values) { tokens_[t][w] = tokens_of(values); }
  void keep(std::size_t t, std::size_t w) {
    if (figures_[t].comparable) results_.add(digests_[t][w], values_of(tokens_[t][w]));
  }
  void store() { results_.store(); }
  std::vector<std::vector<TokenDivergence>>& tokens() { return tokens_; }

  std::vector<Divergence> figures(const Losses& losses) {
    for (std::size_t t = 0; t < figures_.size(); ++t) {
      Divergence& figures = figures_[t];
      if (figures.comparable) figures = summarise_divergence(mine_.plans[t], tokens_[t], losses[t], reference_.losses[t]);
      figures.text = mine_.results[t].text;
      figures.reference = reference_.name();
      figures.reference_digest = reference_.digest;
    }
    return figures_;
  }

 private:
  const ForwardPass& forward_;
  DivergenceReference& reference_;
  const PlannedTexts& mine_;
  std::vector<std::vector<std::string>> digests_;
  std::vector<std::vector<TokenDivergence>> tokens_;
  std::vector<Divergence> figures_;
  WindowResults results_;
  bool any_ = false;
};

}  // namespace

TextMeasures measure_texts(const ForwardPass& forward, const std::vector<Text>& texts, const PerplexityOptions& options, const TextRun& run,
                           ThreadPool& pool, const ProgressFunction& progress, WalkStatistics& statistics) {
  const CacheOptions nothing;
  const CacheOptions& cache = run.cache ? *run.cache : nothing;
  DivergenceReference* reference = run.reference;
  TextMeasures measures;
  PlannedTexts mine;
  if (reference && &forward.model() == &reference->model()) {
    mine = reference->planned(texts, options, pool);
    walk_reference(*reference, mine, options, cache, {}, pool, progress, statistics);
    measures.losses = reference->losses;
    measures.tokens.resize(texts.size());
  } else {
    mine = plan_texts(forward.model(), texts, options, pool);
    std::optional<Comparison> comparison;
    if (reference) {
      const PlannedTexts& theirs = reference->planned(texts, options, pool);
      comparison.emplace(forward, *reference, mine, run, cache, options.walk.group());
      if (comparison->any()) {
        const ProgressFunction named = [&](const Progress& now) {
          if (progress) progress({"reference, " + std::string(now.stage), now.done, now.total});
        };
        WalkStatistics apart;
        walk_reference(*reference, theirs, options, cache, [&](std::size_t t, std::size_t w) { return comparison->missing(t, w); }, pool, named, apart);
      }
    }
    WindowResults results;
    if (cache.on()) results = WindowResults(cache, loss_subject(forward, run.weights_digest, cache));
    Walk walk{.forward = forward, .plans = mine.plans, .options = options, .cache = cache, .known = nullptr,
              .needed = {}, .starting = {}, .observer = {}, .observed = {}, .take_observed = {}, .finished = {}, .batch_ended = {}};
    if (comparison && comparison->any()) {
      walk.needed = [&](std::size_t t, std::size_t w) { return comparison->missing(t, w); };
      walk.observer = [&](std::size_t t, std::size_t w, const at::Tensor& hidden) { comparison->measure(t, w, hidden); };
      walk.observed = [&](std::size_t t, std::size_t w) { return comparison->values(t, w); };
      walk.take_observed = [&](std::size_t t, std::size_t w, const std::vector<float>& values) { comparison->take(t, w, values); };
      walk.finished = [&](std::size_t t, std::size_t w) { comparison->keep(t, w); };
      walk.batch_ended = [&] { comparison->store(); };
    }
    measures.losses = walk_unknown(walk, results, pool, progress, statistics);
    if (comparison) {
      measures.divergence = comparison->figures(measures.losses);
      measures.tokens = std::move(comparison->tokens());
    } else {
      measures.tokens.resize(texts.size());
    }
  }
  for (std::size_t t = 0; t < texts.size(); ++t) summarise_text(mine.plans[t], measures.losses[t], mine.results[t]);
  measures.perplexity = std::move(mine.results);
  measures.plans = std::move(mine.plans);
  if (!run.keep_tokens) measures.losses = {}, measures.tokens = {};
  return measures;
}

}  // namespace miq
