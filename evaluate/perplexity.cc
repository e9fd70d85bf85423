// The walk: for each batch of windows that fits the activation budget, embed all, then layer by layer all
// windows, then the losses. Unit 0 of each layer's work list decodes the next layer, so that decoding
// overlaps with the windows' products. Progress is reported from the calling thread's units.
#include "miq/evaluate/perplexity.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <optional>
#include <thread>

#include "miq/base/error.h"
#include "miq/evaluate/beside.h"
#include "miq/evaluate/memory_budget.h"
#include "miq/evaluate/rank_lists.h"
#include "miq/evaluate/report.h"
#include "miq/model/device.h"

namespace miq {
namespace {

struct Item {  // one window on its way through the model
  const WindowPlan* plan;
  const Window* window;
  std::vector<float>* losses;
  std::size_t plan_number = 0, window_number = 0;
  int owner = 0;  // the process that walks it
};

// Counts work in tokens times layers; the head counts as `kHeadLayers` layers, about what it costs a small model.
constexpr double kHeadLayers = 3;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class WalkProgress {
 public:
  WalkProgress(const ProgressFunction& function, double total) : function_(function), total_(total), caller_(std::this_thread::get_id()) {}

  void add(const std::string& stage, double work) {
    double now = done_.load();
    while (!done_.compare_exchange_weak(now, now + work)) {
    }
    if (function_ && std::this_thread::get_id() == caller_) function_({stage, now + work, total_});
  }
  double done() const { return done_.load(); }
  // What came after that is done again.
  void go_back(double done) { done_.store(done); }

 private:
  const ProgressFunction& function_;
  double total_;
  std::thread::id caller_;
  std::atomic<double> done_{0};
};

// Returns the seconds that the observer took.
double walk_batch(const ForwardPass& forward, std::span<const Item> items, ThreadPool& pool, const WalkOptions& options, WalkProgress& progress) {
  const auto count = static_cast<std::int64_t>(items.size());
  std::vector<at::Tensor> hidden(items.size());
  std::optional<LayerWeights> current, next;
  // Where the states of a window wait for the next layer.
  const auto keep = [&](std::int64_t i, at::Tensor states) {
    const bool stays = options.device_windows < 0 || i < options.device_windows;
    hidden[static_cast<std::size_t>(i)] = stays ? std::move(states) : moved_to_host(states);
  };
  const auto embed = [&](std::int64_t i) {
    const Item& item = items[static_cast<std::size_t>(i)];
    keep(i, forward.embed(item.plan->ids(*item.window)));
  };
  beside(forward, pool, count, embed, [&] {
    if (forward.layers() > 0) next = forward.load_layer_to_run(0);
  });
  for (std::int64_t layer = 0; layer < forward.layers(); ++layer) {
    const std::string stage = "layer " + std::to_string(layer + 1) + " of " + std::to_string(forward.layers());
    if (!next) {
      current.reset();
      next = forward.load_layer_to_run(layer);
    }
    current = std::move(next);
    next.reset();
    const auto run = [&](std::int64_t i) {
      const at::Tensor states = std::move(hidden[static_cast<std::size_t>(i)]);
      keep(i, forward.run_layer(*current, moved_to_device(states, forward.device())));
      progress.add(stage, static_cast<double>(items[static_cast<std::size_t>(i)].window->length));
    };
    beside(forward, pool, count, run, [&] {
      if (options.load_early && layer + 1 < forward.layers()) next = forward.load_layer_to_run(layer + 1);
    });
    if (forward.device_form()) progress.add(stage, 0);  // the windows may have been another thread's
  }
  current.reset();
  beside(forward, pool, count, [&](std::int64_t unit) {
    const Item& item = items[static_cast<std::size_t>(unit)];
    at::Tensor& states = hidden[static_cast<std::size_t>(unit)];
    states = moved_to_device(states, forward.device());
    *item.losses = forward.losses(states, item.plan->ids(*item.window), item.window->first);
    if (!options.observer) {
      states = at::Tensor();
    } else {
      keep(unit, std::move(states));
    }
    progress.add("losses", kHeadLayers * static_cast<double>(item.window->length));
  });
  if (!options.observer) return 0;
  const auto started = std::chrono::steady_clock::now();
  beside(forward, pool, count, [&](std::int64_t unit) {
    const Item& item = items[static_cast<std::size_t>(unit)];
    at::Tensor& states = hidden[static_cast<std::size_t>(unit)];
    options.observer(item.plan_number, item.window_number, moved_to_device(states, forward.device()));
    states = at::Tensor();
    progress.add("divergence", kHeadLayers * static_cast<double>(item.window->length));
  });
  return seconds_since(started);
}

[[noreturn]] void fail_for_memory(const ForwardPass& forward, const Window& window, const std::string& problem) {
  const auto tokens = static_cast<std::int64_t>(window.length);
  const WalkMemory memory = forward.walk_memory(tokens);
  const DeviceMemory there = device_memory(forward.device());
  const std::string has = there.total > 0 ? " (" + bytes_text(there.total) + ", of which " + bytes_text(there.free) + " are free)" : std::string();
  throw Error(forward.device().str() + has + " runs out of memory with one window of " + std::to_string(tokens) + " tokens of '" + forward.model().name +
              "': a layer takes " + bytes_text(memory.kept) + ", a window's buffers " + bytes_text(memory.work) + ", its hidden states " +
              bytes_text(memory.window) + ", embedding and head " + bytes_text(forward.global_bytes()) +
              ". Give shorter windows (--seqlen), a cap so that layers are loaded one at a time (--memory), or another --device. LibTorch says: " + problem);
}

// As many windows at once as memory lets through: half as many after each time that it ran out.
double walk_fitting(const ForwardPass& forward, std::span<const Item> items, ThreadPool& pool, WalkOptions& options, WalkProgress& progress) {
  double observing = 0;
  std::size_t most = items.size();
  for (std::size_t begin = 0; begin < items.size();) {
    const auto some = items.subspan(begin, std::min(most, items.size() - begin));
    const double before = progress.done();
    std::string problem;
    try {
      observing += walk_batch(forward, some, pool, options, progress);
      begin += some.size();
      continue;
    } catch (const c10::OutOfMemoryError& error) {
      problem = error.what_without_backtrace();
    }
    // All that the walk held is gone by now.
    empty_device_cache(forward.device());
    progress.go_back(before);
    if (some.size() == 1) fail_for_memory(forward, *some.front().window, problem);
    most = (some.size() + 1) / 2;
    options.most_windows = static_cast<std::int64_t>(most);
    if (options.message) {
      options.message(forward.device().str() + " ran out of memory with " + std::to_string(some.size()) + " windows in flight; going on with " + std::to_string(most));
    }
  }
  return observing;
}

// The same for several processes: each walks its own windows, as many at once as its memory allows, then all know all.
double walk_round(const ForwardPass& forward, std::span<const Item> items, ThreadPool& pool, WalkOptions& options, WalkProgress& progress) {
  Ranks& ranks = options.group();
  if (ranks.alone()) return walk_fitting(forward, items, pool, options, progress);
  std::vector<Item> own;
  for (const Item& item : items) {
    if (item.owner == ranks.rank()) own.push_back(item);
  }
  double observing = 0;
  const std::size_t most = options.most_windows > 0 ? static_cast<std::size_t>(options.most_windows) : own.size();
  for (std::size_t begin = 0; begin < own.size(); begin += most) {
    observing += walk_fitting(forward, std::span(own).subspan(begin, std::min(most, own.size() - begin)), pool, options, progress);
  }
  std::vector<std::vector<float>> observed(options.observed ? items.size() : 0);
  std::vector<std::vector<float>*> lists;
  std::vector<int> owners;
  for (std::size_t i = 0; i < items.size(); ++i) {
    lists.push_back(items[i].losses);
    owners.push_back(items[i].owner);
    if (!options.observed) continue;
    if (items[i].owner == ranks.rank()) observed[i] = options.observed(items[i].plan_number, items[i].window_number);
    lists.push_back(&observed[i]);
    owners.push_back(items[i].owner);
  }
  share_lists(ranks, lists, owners);
  for (std::size_t i = 0; i < observed.size(); ++i) {
    if (items[i].owner != ranks.rank()) options.take_observed(items[i].plan_number, items[i].window_number, observed[i]);
  }
  return observing;
}

// How many windows go into the next walk: as the activation budget allows, and where results are to be kept on the way, as many as
// the walks so far would take kStoreSeconds for; one a thread before that is known. Whole rounds of the threads, of all processes.
std::size_t batch_end(const std::vector<Item>& items, std::size_t begin, std::uint64_t token_bytes, std::size_t threads, const WalkOptions& options,
                      double seconds, std::int64_t tokens_done) {
  std::size_t end = begin;
  std::uint64_t bytes = 0;
  double tokens = 0;
  const auto processes = static_cast<std::size_t>(options.group().size());
  threads *= processes;
  const double rate = seconds > 0 ? static_cast<double>(tokens_done) / seconds : 0;
  while (end < items.size()) {
    const std::size_t count = end - begin;
    bytes += token_bytes * items[end].window->length;
    if (options.most_windows > 0 && count >= static_cast<std::size_t>(options.most_windows) * processes) break;
    if (bytes > options.activation_bytes * processes && count >= threads) break;
    if (options.finished && count >= threads && count % threads == 0 && tokens >= rate * kStoreSeconds) break;
    tokens += static_cast<double>(items[end].window->length);
    ++end;
  }
  return end;
}

}  // namespace

std::vector<std::vector<std::vector<float>>> walk_windows(const ForwardPass& forward, const std::vector<const WindowPlan*>& plans,
                                                          ThreadPool& pool, const WalkOptions& asked, const ProgressFunction& progress,
                                                          WalkStatistics& statistics) {
  std::vector<std::vector<std::vector<float>>> losses(plans.size());
  std::vector<Item> items;
  std::int64_t tokens = 0, own_tokens = 0, longest = 0;
  Ranks& ranks = asked.group();
  for (std::size_t p = 0; p < plans.size(); ++p) {
    losses[p].resize(plans[p]->windows.size());
    for (std::size_t w = 0; w < losses[p].size(); ++w) {
      const int owner = owner_of(ranks, static_cast<std::int64_t>(asked.number ? asked.number(p, w) : w));
      items.push_back({plans[p], &plans[p]->windows[w], &losses[p][w], p, w, owner});
      if (owner == ranks.rank()) own_tokens += static_cast<std::int64_t>(plans[p]->windows[w].length);
      tokens += static_cast<std::int64_t>(plans[p]->windows[w].length);
      longest = std::max(longest, static_cast<std::int64_t>(plans[p]->windows[w].length));
    }
  }
  WalkOptions options = items.empty() ? asked : fit_memory(forward, asked, longest, pool.threads());
  WalkProgress reporter(progress, static_cast<double>(own_tokens) * (static_cast<double>(forward.layers()) + (options.observer ? 2 : 1) * kHeadLayers));
  double observing = 0;
  std::int64_t walked = 0;
  const auto started = std::chrono::steady_clock::now();
  const std::uint64_t token_bytes = static_cast<std::uint64_t>(forward.model().config.hidden) * sizeof(float);
  for (std::size_t begin = 0; begin < items.size();) {
    const std::size_t end = ranks.broadcast(static_cast<std::uint64_t>(
        batch_end(items, begin, token_bytes, static_cast<std::size_t>(pool.threads()), options, seconds_since(started), walked)));
    observing += walk_round(forward, std::span(items).subspan(begin, end - begin), pool, options, reporter);
    for (; begin < end; ++begin) {
      const Item& item = items[begin];
      walked += static_cast<std::int64_t>(item.window->length);
      if (options.finished) options.finished(item.plan_number, item.window_number, *item.losses);
    }
    if (options.batch_ended) options.batch_ended();
  }
  statistics.seconds += seconds_since(started) - observing;
  statistics.tokens += tokens;
  return losses;
}

bool was_calibrated_on(const Model& model, const Text& text) {
  for (const char* key : {"text", "text_digest", "source_digest"}) {
    const auto found = model.calibration.find(key);
    if (found == model.calibration.end() || !found->is_string()) continue;
    const std::string& digest = found->get_ref<const std::string&>();
    if (!digest.empty() && (digest == text.digest || digest == text.source_digest)) return true;
  }
  return false;
}

PlannedTexts plan_texts(const Model& model, const std::vector<Text>& texts, const PerplexityOptions& options, ThreadPool& pool) {
  const Protocol& rules = protocol(options.protocol);
  const std::int64_t seqlen = window_length(rules, model.config, options.seqlen);
  PlannedTexts planned{std::vector<WindowPlan>(texts.size()), std::vector<Perplexity>(texts.size())};
  pool.for_each(static_cast<std::int64_t>(texts.size()), [&](std::int64_t unit) {
    const auto i = static_cast<std::size_t>(unit);
    Perplexity& result = planned.results[i];
    WindowPlan& plan = planned.plans[i];
    result.text = texts[i].name;
    result.path = texts[i].path;
    result.protocol = rules.name;
    result.seqlen = seqlen;
    result.text_digest = texts[i].digest;
    result.source_digest = texts[i].source_digest;
    result.calibrated_on = was_calibrated_on(model, texts[i]);
    try {
      plan = plan_windows(rules, model, texts[i], seqlen, options.windows);
    } catch (const Error& error) {
      result.failure = error.what();
    }
    result.text_tokens = plan.text_tokens;
    result.windows = static_cast<std::int64_t>(plan.windows.size());
    for (const Window& window : plan.windows) result.tokens += static_cast<std::int64_t>(window.length);
  });
  return planned;
}

void summarise_text(const WindowPlan& plan, const std::vector<std::vector<float>>& losses, Perplexity& result) {
  if (result.failed()) return;
  result.summary = summarise(protocol(result.protocol), plan, losses);
  if (std::isfinite(result.summary.perplexity)) return;
  const auto& means = result.summary.window_nll;
  const auto bad = std::find_if(means.begin(), means.end(), [](double mean) { return !std::isfinite(mean); });
  result.failure = bad == means.end()
                       ? "the perplexity overflows"
                       : "the loss is not finite in window " + std::to_string(bad - means.begin() + 1) + " of " + std::to_string(means.size());
}

std::vector<Perplexity> measure_perplexity(const ForwardPass& forward, const std::vector<Text>& texts, const PerplexityOptions& options,
                                           ThreadPool& pool, const ProgressFunction& progress, WalkStatistics& statistics) {
  PlannedTexts planned = plan_texts(forward.model(), texts, options, pool);
  std::vector<const WindowPlan*> pointers;
  for (const WindowPlan& plan : planned.plans) pointers.push_back(&plan);
  const auto losses = walk_windows(forward, pointers, pool, options.walk, progress, statistics);
  for (std::size_t i = 0; i < texts.size(); ++i) summarise_text(planned.plans[i], losses[i], planned.results[i]);
  return planned.results;
}

}  // namespace miq
