// Every choice is encoded; equal ones of an item are computed once. All go through the model layer by layer, as many at once as the
// activation budget allows, each a unit of its own; then the head reads the positions in front of the choices' tokens alone.
#include "miq/evaluate/zeroshot.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <optional>
#include <span>

#include "miq/base/error.h"
#include "miq/evaluate/zeroshot_text.h"

namespace miq {
namespace {

// What the harness takes where a config names no maximum.
constexpr std::int64_t kDefaultLength = 2048;
// The head counts as this many layers in the progress.
constexpr double kHeadLayers = 1;

// The token that stands for an empty context.
std::optional<std::int32_t> prefix_id(const Config& config) {
  const auto id = config.bos_id ? config.bos_id : config.eos_id;
  return id ? std::optional(static_cast<std::int32_t>(*id)) : std::nullopt;
}

std::vector<std::int32_t> encode_text(const Model& model, std::string_view text) {
  std::vector<std::int32_t> ids = model.tokenizer->encode(text, true);
  const auto prefix = prefix_id(model.config);
  if (prefix && ids.size() > 1 && ids[0] == *prefix && ids[1] == *prefix) return model.tokenizer->encode(text, false);
  return ids;
}

// One different choice of an item on its way through the model.
struct Sequence {
  std::size_t task, item;
  std::vector<std::size_t> choices;  // of the item: one, or several equal ones
  EncodedChoice encoded;
  double log_likelihood = 0;

  std::span<const std::int32_t> inputs() const { return std::span(encoded.ids).first(encoded.ids.size() - 1); }
};

// Adds the sequences of one item. Throws Error naming file and line.
void encode_item(const Model& model, const ZeroShotTask& task, std::size_t task_index, std::size_t item_index, std::vector<Sequence>& to) {
  const ZeroShotItem& item = task.items[item_index];
  for (std::size_t choice = 0; choice < item.choices.size(); ++choice) {
    EncodedChoice encoded;
    try {
      encoded = encode_choice(model, item.choices[choice]);
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

// Sum of the scored tokens' log-probabilities, given what came out of the last layer.
double log_likelihood(const ForwardPass& forward, const at::Tensor& hidden, const EncodedChoice& encoded) {
  const at::Tensor read = hidden.narrow(0, hidden.size(0) - encoded.scored, encoded.scored);
  // losses() scores each position by the next id, so one more row stands for the last token, which the model never reads.
  const auto ids = std::span(encoded.ids).last(static_cast<std::size_t>(encoded.scored + 1));
  double sum = 0;
  for (const float loss : forward.losses(at::cat({read, at::zeros({1, hidden.size(1)})}), ids)) sum -= static_cast<double>(loss);
  return sum;
}

void walk_batch(const ForwardPass& forward, std::span<Sequence> sequences, ThreadPool& pool, const std::function<void(const std::string&, double)>& report) {
  const auto count = static_cast<std::int64_t>(sequences.size());
  std::vector<at::Tensor> hidden(sequences.size());
  std::optional<LayerWeights> current, next;
  double tokens = 0;
  for (const Sequence& sequence : sequences) tokens += static_cast<double>(sequence.inputs().size());
  pool.for_each(count + 1, [&](std::int64_t unit) {
    if (unit == 0) {
      if (forward.layers() > 0) next = forward.load_layer(0);
      return;
    }
    const auto i = static_cast<std::size_t>(unit - 1);
    hidden[i] = forward.embed(sequences[i].inputs());
  });
  for (std::int64_t layer = 0; layer < forward.layers(); ++layer) {
    current = std::move(next);
    next.reset();
    pool.for_each(count + 1, [&](std::int64_t unit) {
      if (unit == 0) {
        if (layer + 1 < forward.layers()) next = forward.load_layer(layer + 1);
        return;
      }
      at::Tensor& states = hidden[static_cast<std::size_t>(unit - 1)];
      states = forward.run_layer(*current, states);
    });
    report("questions, layer " + std::to_string(layer + 1) + " of " + std::to_string(forward.layers()), tokens);
  }
  current.reset();
  pool.for_each(count, [&](std::int64_t unit) {
    const auto i = static_cast<std::size_t>(unit);
    sequences[i].log_likelihood = log_likelihood(forward, hidden[i], sequences[i].encoded);
    hidden[i] = at::Tensor();
  });
  report("questions, likelihoods", kHeadLayers * tokens);
}

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
      if (!std::isfinite(scores[i][c])) {
        result.failure = "the log-likelihood is not finite for line " + std::to_string(item.line) + ", choice " + std::to_string(c + 1);
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
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    std::vector<std::vector<Sequence>> of_item(tasks[t].items.size());
    try {
      pool.for_each(static_cast<std::int64_t>(of_item.size()), [&](std::int64_t unit) {
        const auto i = static_cast<std::size_t>(unit);
        encode_item(model, tasks[t], t, i, of_item[i]);
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

std::optional<double> mean_accuracy(const std::vector<ZeroShotResult>& results, bool normalised) {
  double sum = 0;
  for (const ZeroShotResult& result : results) {
    if (result.failed()) return std::nullopt;
    sum += (normalised && result.normalised ? result.accuracy_norm : result.accuracy).value;
  }
  return results.empty() ? std::nullopt : std::optional(sum / static_cast<double>(results.size()));
}

EncodedChoice encode_choice(const Model& model, const ScoredText& text) {
  if (!model.tokenizer) throw Error("the model has no tokenizer; give a model that has one");
  const std::size_t spaces = trailing_space(text.context);
  const std::string context = text.context.substr(0, text.context.size() - spaces);
  std::vector<std::int32_t> ids;
  std::size_t before = 0;  // tokens of the context
  if (text.context.empty()) {
    const auto prefix = prefix_id(model.config);
    if (!prefix) throw Error("the context is empty and the model names no token that begins a text");
    ids = model.tokenizer->encode(text.continuation, false);
    if (ids.empty() || ids.front() != *prefix) ids.insert(ids.begin(), *prefix);
    before = 1;
  } else {
    ids = encode_text(model, context);
    before = ids.size();
    if (before == 0) throw Error("the context has no tokens");
    const std::vector<std::int32_t> whole = encode_text(model, text.context + text.continuation);
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
  // Long ones first: what is left at the end of a layer is small.
  std::stable_sort(sequences.begin(), sequences.end(), [](const Sequence& a, const Sequence& b) { return a.encoded.ids.size() > b.encoded.ids.size(); });
  std::int64_t tokens = 0;
  for (const Sequence& sequence : sequences) tokens += static_cast<std::int64_t>(sequence.inputs().size());
  const double total = static_cast<double>(tokens) * (static_cast<double>(forward.layers()) + kHeadLayers);
  double done = 0;
  const auto report = [&](const std::string& stage, double work) {
    done += work;
    if (progress) progress({stage, done, total});
  };
  const auto started = std::chrono::steady_clock::now();
  const std::uint64_t token_bytes = static_cast<std::uint64_t>(model.config.hidden) * sizeof(float);
  for (std::size_t begin = 0; begin < sequences.size();) {
    std::size_t end = begin;
    std::uint64_t bytes = 0;
    while (end < sequences.size()) {
      bytes += token_bytes * sequences[end].inputs().size();
      if (bytes > options.walk.activation_bytes && end - begin >= static_cast<std::size_t>(pool.threads())) break;
      ++end;
    }
    walk_batch(forward, std::span(sequences).subspan(begin, end - begin), pool, report);
    begin = end;
  }
  statistics.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  statistics.tokens += tokens;

  std::vector<std::vector<std::vector<double>>> scores(options.tasks.size());
  for (std::size_t t = 0; t < scores.size(); ++t) {
    for (const ZeroShotItem& item : options.tasks[t].items) scores[t].emplace_back(item.choices.size());
  }
  for (const Sequence& sequence : sequences) {
    for (const std::size_t choice : sequence.choices) scores[sequence.task][sequence.item][choice] = sequence.log_likelihood;
  }
  for (std::size_t t = 0; t < results.size(); ++t) {
    if (results[t].failed()) continue;
    judge(options.tasks[t], scores[t], results[t]);
    if (options.item_scores) results[t].item_scores = std::move(scores[t]);
  }
  return results;
}

}  // namespace miq
