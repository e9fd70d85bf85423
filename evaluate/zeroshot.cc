// Every choice is encoded; equal ones of an item are computed once, and the others share the rows of what they begin with in common.
// Items of similar length stand side by side in units of some hundred rows, so that matrix products have enough of them. Units go through
// the model layer by layer, as many at once as the activation budget allows; then the head reads the rows in front of the choices' tokens
// alone. Units do not depend on the budget or the number of threads, so neither do results.
#include "miq/evaluate/zeroshot.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <span>

#include "miq/base/error.h"
#include "miq/evaluate/beside.h"
#include "miq/evaluate/memory_budget.h"
#include "miq/evaluate/zeroshot_text.h"
#include "miq/formats/digest.h"
#include "miq/model/device.h"
#include "miq/model/shared_prefix.h"

namespace miq {
namespace {

// What the harness takes where a config names no maximum.
constexpr std::int64_t kDefaultLength = 2048;
// A unit takes items until it has this many rows.
constexpr std::int64_t kUnitRows = 256;
// Where an item's choices share little, they go on in another unit after this many.
constexpr std::int64_t kMostUnitRows = 2048;
// Units after which what is measured is kept, so that an interrupted run goes on from there; enough for a walk through all layers to pay.
constexpr std::size_t kKeptTogether = 64;
// The head counts as this many layers in the progress.
constexpr double kHeadLayers = 1;

std::vector<std::int32_t> encode_text(const Model& model, std::string_view text, std::optional<std::int32_t> prefix) {
  std::vector<std::int32_t> ids = model.tokenizer->encode(text, true);
  if (prefix && ids.size() > 1 && ids[0] == *prefix && ids[1] == *prefix) return model.tokenizer->encode(text, false);
  return ids;
}

// One different choice of an item on its way through the model.
struct Sequence {
  std::size_t task, item;
  std::vector<std::size_t> choices;  // of the item: one, or several equal ones
  EncodedChoice encoded;
  SharedSequence place = {};  // of the inputs, in its unit
  double log_likelihood = 0;

  std::span<const std::int32_t> inputs() const { return std::span(encoded.ids).first(encoded.ids.size() - 1); }
};

// Adds the sequences of one item. Throws Error naming file and line.
void encode_item(const Model& model, std::optional<std::int32_t> begin, const ZeroShotTask& task, std::size_t task_index, std::size_t item_index,
                 std::vector<Sequence>& to) {
  const ZeroShotItem& item = task.items[item_index];
  for (std::size_t choice = 0; choice < item.choices.size(); ++choice) {
    EncodedChoice encoded;
    try {
      encoded = encode_choice(model, item.choices[choice], begin);
    } catch (const Error& error) {
      throw Error(task.path + ": line " + std::to_string(item.line) + ", choice " + std::to_string(choice + 1) + ": " + error.what());
    }
    const auto same = std::find_if(to.begin(), to.end(), [&](const Sequence& sequence) {
      return sequence.encoded.scored == encoded.scored && sequence.encoded.ids == encoded.ids;
    });
    if (same == to.end()) {
      to.push_back({task_index, item_index, {choice}, std::move(encoded)});
    } else {
      same->choices.push_back(choice);
    }
  }
}

// Sequences that go through the model together.
struct Unit {
  SharedRows rows;
  std::vector<Sequence*> sequences;
};

std::int64_t common_length(std::span<const std::int32_t> a, std::span<const std::int32_t> b) {
  return std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(std::min(a.size(), b.size())), b.begin()).first - a.begin();
}

// `sequences` are those of one item after another. Long items come first: what is left at a layer's end is small.
std::vector<Unit> make_units(std::vector<Sequence>& sequences, bool share) {
  std::vector<std::span<Sequence>> items;
  for (std::size_t begin = 0, end = 0; begin < sequences.size(); begin = end) {
    while (end < sequences.size() && sequences[end].task == sequences[begin].task && sequences[end].item == sequences[begin].item) ++end;
    items.push_back(std::span(sequences).subspan(begin, end - begin));
    const auto longest = std::max_element(items.back().begin(), items.back().end(),
                                          [](const Sequence& a, const Sequence& b) { return a.encoded.ids.size() < b.encoded.ids.size(); });
    std::rotate(items.back().begin(), longest, longest + 1);
  }
  std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return a[0].encoded.ids.size() > b[0].encoded.ids.size(); });
  std::vector<Unit> units;
  for (const std::span<Sequence> item : items) {
    if (units.empty() || units.back().rows.rows() >= kUnitRows || !share) units.emplace_back();
    Sequence* main = nullptr;  // whose rows the others of the item share
    std::int64_t start = 0;
    for (Sequence& sequence : item) {
      if (main != nullptr && (!share || units.back().rows.rows() >= kMostUnitRows)) {
        units.emplace_back();
        main = nullptr;
      }
      Unit& unit = units.back();
      if (main == nullptr) start = unit.rows.rows();
      const auto inputs = sequence.inputs();
      const std::int64_t prefix = main ? common_length(main->inputs(), inputs) : 0;
      if (main == nullptr) main = &sequence;
      sequence.place = unit.rows.add(start, prefix, inputs.subspan(static_cast<std::size_t>(prefix)));
      unit.sequences.push_back(&sequence);
    }
  }
  return units;
}

// Sums of the scored tokens' log-probabilities, given what came out of the last layer.
void score(const ForwardPass& forward, const at::Tensor& hidden, const Unit& unit) {
  std::vector<at::Tensor> read;
  std::vector<std::int32_t> ids{0};  // losses() scores each row by the next id
  const auto take = [&](std::int64_t first, std::int64_t count) {
    if (count > 0) read.push_back(hidden.narrow(0, first, count));
  };
  for (const Sequence* sequence : unit.sequences) {
    const SharedSequence& place = sequence->place;
    const std::int64_t end = place.prefix + place.length, first = end - sequence->encoded.scored;
    if (first < place.prefix) take(place.prefix_begin + first, place.prefix - first);
    take(place.begin + std::max<std::int64_t>(first - place.prefix, 0), end - std::max(first, place.prefix));
    ids.insert(ids.end(), sequence->encoded.ids.end() - static_cast<std::ptrdiff_t>(sequence->encoded.scored), sequence->encoded.ids.end());
  }
  read.push_back(at::zeros({1, hidden.size(1)}, hidden.options()));
  const std::vector<float> losses = forward.losses(at::cat(read), ids);
  std::size_t at = 0;
  for (Sequence* sequence : unit.sequences) {
    sequence->log_likelihood = 0;
    for (std::int64_t i = 0; i < sequence->encoded.scored; ++i) sequence->log_likelihood -= static_cast<double>(losses[at++]);
  }
}

void walk_batch(const ForwardPass& forward, const SharedPass& shared, std::span<const Unit* const> units, bool load_early, ThreadPool& pool,
                const std::function<void(const std::string&, double)>& report) {
  const auto count = static_cast<std::int64_t>(units.size());
  // Sequences that must not share rows are windows of their own, whose rotations may depend on their lengths.
  const bool share = SharedPass::can_share(forward.model().config);
  std::vector<at::Tensor> hidden(units.size());
  std::optional<LayerWeights> current, next;
  double rows = 0;
  for (const Unit* unit : units) rows += static_cast<double>(unit->rows.rows());
  const auto embed = [&](std::int64_t i) { hidden[static_cast<std::size_t>(i)] = shared.embed(units[static_cast<std::size_t>(i)]->rows); };
  beside(forward, pool, count, embed, [&] {
    if (load_early && forward.layers() > 0) next = forward.load_layer(0);
  });
  for (std::int64_t layer = 0; layer < forward.layers(); ++layer) {
    current = std::move(next);
    next.reset();
    if (!load_early) current = forward.load_layer(layer);
    const auto run = [&](std::int64_t number) {
      const auto i = static_cast<std::size_t>(number);
      hidden[i] = share ? shared.run_layer(*current, hidden[i], units[i]->rows) : forward.run_layer(*current, hidden[i]);
    };
    beside(forward, pool, count, run, [&] {
      if (load_early && layer + 1 < forward.layers()) next = forward.load_layer(layer + 1);
    });
    report("questions, layer " + std::to_string(layer + 1) + " of " + std::to_string(forward.layers()), rows);
  }
  current.reset();
  beside(forward, pool, count, [&](std::int64_t number) {
    const auto i = static_cast<std::size_t>(number);
    score(forward, hidden[i], *units[i]);
    hidden[i] = at::Tensor();
  });
  report("questions, likelihoods", kHeadLayers * rows);
}

// What a unit's likelihoods depend on beside the model: all its rows and where they stand.
std::string unit_digest(const Unit& unit) {
  std::vector<std::int64_t> content;
  for (const Sequence* sequence : unit.sequences) {
    const SharedSequence& place = sequence->place;
    content.insert(content.end(), {place.prefix_begin, place.prefix, place.begin, place.length, sequence->encoded.scored});
    content.insert(content.end(), sequence->encoded.ids.begin(), sequence->encoded.ids.end());
  }
  return digest_of({reinterpret_cast<const std::uint8_t*>(content.data()), content.size() * sizeof(std::int64_t)});
}

// Results of earlier runs; likelihoods are doubles, each kept as the bits of two floats.
class UnitResults {
 public:
  UnitResults(const ForwardPass& forward, const ZeroShotOptions& options) {
    if (!options.cache.on() || options.weights_digest.empty()) return;
    Json subject = loss_subject(forward, options.weights_digest, options.cache);
    subject["results"] = "zeroshot";
    kept_ = WindowResults(options.cache, subject);
  }

  // Whether the unit's likelihoods are known: then they are filled in.
  bool take(const Unit& unit) const {
    const std::vector<float>* values = kept_.find(unit_digest(unit), 2 * unit.sequences.size());
    for (std::size_t i = 0; values && i < unit.sequences.size(); ++i) std::memcpy(&unit.sequences[i]->log_likelihood, values->data() + 2 * i, sizeof(double));
    return values != nullptr;
  }
  void store(std::span<const Unit* const> units) {
    for (const Unit* unit : units) {
      std::vector<float> values(2 * unit->sequences.size());
      for (std::size_t i = 0; i < unit->sequences.size(); ++i) std::memcpy(values.data() + 2 * i, &unit->sequences[i]->log_likelihood, sizeof(double));
      kept_.add(unit_digest(*unit), values);
    }
    kept_.store();
  }

 private:
  WindowResults kept_;
};

Share share(const std::vector<bool>& right) {
  const auto n = static_cast<double>(right.size());
  const double mean = static_cast<double>(std::count(right.begin(), right.end(), true)) / n;
  double squares = 0;
  for (const bool one : right) squares += (one - mean) * (one - mean);
  return {mean, right.size() < 2 ? std::numeric_limits<double>::quiet_NaN() : std::sqrt(squares / (n - 1)) / std::sqrt(n)};
}

void judge(const ZeroShotTask& task, const std::vector<std::vector<double>>& scores, ZeroShotResult& result) {
  std::vector<bool> right, right_norm;
  for (std::size_t i = 0; i < task.items.size(); ++i) {
    const ZeroShotItem& item = task.items[i];
    std::vector<double> normalised(scores[i].size());
    for (std::size_t c = 0; c < scores[i].size(); ++c) {
      if (!std::isfinite(scores[i][c])) {  // which choice it comes from is not known: they share rows
        result.failure = "a log-likelihood is not finite in line " + std::to_string(item.line);
        return;
      }
      normalised[c] = scores[i][c] / static_cast<double>(item.lengths[c]);
    }
    right.push_back(std::max_element(scores[i].begin(), scores[i].end()) - scores[i].begin() == item.answer);
    right_norm.push_back(std::max_element(normalised.begin(), normalised.end()) - normalised.begin() == item.answer);
  }
  result.accuracy = share(right);
  result.accuracy_norm = share(right_norm);
}

// Encodes all items in parallel; a task that cannot be encoded fails and adds nothing.
std::vector<Sequence> encode_tasks(const Model& model, const std::vector<ZeroShotTask>& tasks, ThreadPool& pool, std::vector<ZeroShotResult>& results) {
  std::vector<Sequence> sequences;
  const std::optional<std::int32_t> begin = begin_of_text(model);
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    std::vector<std::vector<Sequence>> of_item(tasks[t].items.size());
    try {
      pool.for_each(static_cast<std::int64_t>(of_item.size()), [&](std::int64_t unit) {
        const auto i = static_cast<std::size_t>(unit);
        encode_item(model, begin, tasks[t], t, i, of_item[i]);
      });
    } catch (const Error& error) {
      results[t].failure = error.what();
      continue;
    }
    for (std::vector<Sequence>& item : of_item) std::move(item.begin(), item.end(), std::back_inserter(sequences));
  }
  return sequences;
}

}  // namespace

EncodedChoice encode_choice(const Model& model, const ScoredText& text, std::optional<std::int32_t> begin) {
  if (!model.tokenizer) throw Error("the model has no tokenizer; give a model that has one");
  const std::size_t spaces = trailing_space(text.context);
  const std::string context = text.context.substr(0, text.context.size() - spaces);
  std::vector<std::int32_t> ids;
  std::size_t before = 0;  // tokens of the context
  if (text.context.empty()) {
    if (!begin) throw Error("the context is empty and the model names no token that begins a text");
    ids = model.tokenizer->encode(text.continuation, false);
    if (ids.empty() || ids.front() != *begin) ids.insert(ids.begin(), *begin);
    before = 1;
  } else {
    ids = encode_text(model, context, begin);
    before = ids.size();
    if (before == 0) throw Error("the context has no tokens");
    const std::vector<std::int32_t> whole = encode_text(model, text.context + text.continuation, begin);
    if (whole.size() > before) ids.insert(ids.end(), whole.begin() + static_cast<std::ptrdiff_t>(before), whole.end());
  }
  if (ids.size() == before) throw Error("the choice has no tokens of its own after its context");
  const std::size_t scored = ids.size() - before;
  const std::int64_t positions = model.config.max_positions;
  const auto longest = static_cast<std::size_t>(positions > 0 ? positions : kDefaultLength);
  if (scored > longest) {
    throw Error("it takes " + std::to_string(scored) + " tokens, more than the model's " + std::to_string(longest) + " positions");
  }
  if (ids.size() > longest + 1) ids.erase(ids.begin(), ids.end() - static_cast<std::ptrdiff_t>(longest + 1));
  return {std::move(ids), static_cast<std::int64_t>(scored)};
}

std::vector<ZeroShotResult> measure_zeroshot(const ForwardPass& forward, const ZeroShotOptions& options, ThreadPool& pool,
                                             const ProgressFunction& progress, WalkStatistics& statistics) {
  const Model& model = forward.model();
  if (!model.tokenizer) throw Error("the model has no tokenizer, so questions cannot be asked; give a model that has one");
  std::vector<ZeroShotResult> results;
  for (const ZeroShotTask& task : options.tasks) {
    ZeroShotResult& result = results.emplace_back();
    result.task = task.name;
    result.path = task.path;
    result.digest = task.digest;
    result.normalised = task.normalised;
    result.items = static_cast<std::int64_t>(task.items.size());
    for (const ZeroShotItem& item : task.items) result.choices += static_cast<std::int64_t>(item.choices.size());
  }
  std::vector<Sequence> sequences = encode_tasks(model, options.tasks, pool, results);
  std::vector<Unit> all_units = make_units(sequences, SharedPass::can_share(model.config));
  Ranks& ranks = options.walk.group();
  std::size_t number = 0;  // of several processes each takes its own units
  std::erase_if(all_units, [&](const Unit&) { return owner_of(ranks, static_cast<std::int64_t>(number++)) != ranks.rank(); });
  const SharedPass shared(forward);
  UnitResults results_kept(forward, options);
  std::vector<const Unit*> units;  // to be walked
  std::int64_t tokens = 0, longest = 0;
  for (const Unit& unit : all_units) {
    if (results_kept.take(unit)) continue;
    units.push_back(&unit);
    tokens += unit.rows.rows();
    longest = std::max(longest, unit.rows.rows());
  }
  WalkOptions walk = units.empty() ? options.walk : fit_memory(forward, options.walk, longest, pool.threads());
  walk.activation_bytes = options.walk.activation_bytes;  // on a device, too: questions are short
  const double total = static_cast<double>(tokens) * (static_cast<double>(forward.layers()) + kHeadLayers);
  double done = 0;
  const auto report = [&](const std::string& stage, double work) {
    done += work;
    if (progress) progress({stage, done, total});
  };
  const auto started = std::chrono::steady_clock::now();
  const std::uint64_t token_bytes = static_cast<std::uint64_t>(model.config.hidden) * sizeof(float);
  for (std::size_t begin = 0; begin < units.size();) {
    std::size_t end = begin;
    std::uint64_t bytes = 0;
    while (end < units.size()) {
      const std::size_t count = end - begin;
      bytes += token_bytes * static_cast<std::uint64_t>(units[end]->rows.rows());
      if (walk.most_windows > 0 && count >= static_cast<std::size_t>(walk.most_windows)) break;
      if (bytes > walk.activation_bytes && count >= static_cast<std::size_t>(pool.threads())) break;
      if (options.cache.on() && count >= kKeptTogether && count % static_cast<std::size_t>(pool.threads()) == 0) break;
      ++end;
    }
    const auto batch = std::span(units).subspan(begin, end - begin);
    const double before = done;
    try {
      walk_batch(forward, shared, batch, walk.load_early, pool, report);
    } catch (const c10::OutOfMemoryError&) {
      if (batch.size() == 1) throw;
      walk.most_windows = static_cast<std::int64_t>((batch.size() + 1) / 2);
      done = before;
      empty_device_cache(forward.device());
      continue;
    }
    results_kept.store(batch);
    begin = end;
  }
  statistics.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  statistics.tokens += tokens;
  std::vector<double> likelihoods;  // 0 where another process has it
  for (const Sequence& sequence : sequences) likelihoods.push_back(sequence.log_likelihood);
  ranks.sum(likelihoods);

  std::vector<std::vector<std::vector<double>>> scores(options.tasks.size());
  for (std::size_t t = 0; t < scores.size(); ++t) {
    for (const ZeroShotItem& item : options.tasks[t].items) scores[t].emplace_back(item.choices.size());
  }
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    for (const std::size_t choice : sequences[s].choices) scores[sequences[s].task][sequences[s].item][choice] = likelihoods[s];
  }
  for (std::size_t t = 0; t < results.size(); ++t) {
    if (results[t].failed()) continue;
    judge(options.tasks[t], scores[t], results[t]);
    if (options.item_scores) results[t].item_scores = std::move(scores[t]);
  }
  return results;
}

}  // namespace miq
