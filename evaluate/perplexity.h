// Perplexity of one model on several texts in one walk: every layer is decoded once and all windows of all
// texts go through it, spread over the threads, while one of them decodes the next layer.
//
// A window's losses depend on that window alone, so results are the same bits for any number of threads,
// texts and windows in flight.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "miq/base/progress.h"
#include "miq/base/ranks.h"
#include "miq/base/thread_pool.h"
#include "miq/evaluate/figures.h"
#include "miq/model/forward.h"

namespace miq {

struct WalkOptions {
  // Hidden states kept between layers, [tokens, hidden] float32 over all windows in flight. Where all windows
  // need more than this, they go through the model in several walks. At least one window per thread goes.
  std::uint64_t activation_bytes = std::uint64_t{1} << 30;
  std::uint64_t memory_bytes = 0;  // cap on the process's anonymous memory, kept by memory_budget.h; 0: none
  std::int64_t most_windows = 0;   // in flight; 0: as activation_bytes says
  // Where windows go one after another (ForwardPass::device_form): hidden states of so many of them stay on the device, the others' wait in
  // the host's memory. Less than 0: all stay. fit_memory() says how many there is room for.
  std::int64_t device_windows = -1;
  MessageFunction message;         // told when the device ran out of memory and fewer windows go at once, and where packed weights were decoded
  bool load_early = true;          // a layer while windows pass through the one before it
  // Sees the states behind the last layer, [tokens, hidden], of each window after its losses: from several threads, each window
  // once. Its time does not count in the walk's.
  std::function<void(std::size_t plan, std::size_t window, const at::Tensor& hidden)> observer;
  // Told in the calling thread which windows are through, each once, and their losses. Where it is given, a walk of all windows at
  // once is cut into several of about kStoreSeconds, so that whoever keeps the losses misses no more than that after a kill.
  std::function<void(std::size_t plan, std::size_t window, const std::vector<float>& losses)> finished;
  std::function<void()> batch_ended;  // after the last finished() of a walk
  // Processes that share the windows: each walks its own, and all get all losses, the same bits as alone. A window's number decides whose it
  // is: `number`'s, or its place in the plan. What the observer makes of a window goes the same way: `observed` gives it in the process
  // that has it, and `take_observed` gets it in the others, before finished() is called in all.
  Ranks* ranks = nullptr;
  std::function<std::size_t(std::size_t plan, std::size_t window)> number;
  std::function<std::vector<float>(std::size_t plan, std::size_t window)> observed;
  std::function<void(std::size_t plan, std::size_t window, const std::vector<float>& values)> take_observed;

  Ranks& group() const { return ranks ? *ranks : no_other_ranks(); }
};
inline constexpr double kStoreSeconds = 120;

struct WalkStatistics {
  double seconds = 0;        // inside the walk: embedding to losses, decoding of layers included
  std::int64_t tokens = 0;   // of all windows
};

// Losses of the scored positions of every window of every plan: result[plan][window][position].
std::vector<std::vector<std::vector<float>>> walk_windows(const ForwardPass& forward, const std::vector<const WindowPlan*>& plans,
                                                          ThreadPool& pool, const WalkOptions& options, const ProgressFunction& progress,
                                                          WalkStatistics& statistics);

struct PerplexityOptions {
  std::string protocol = "gptq";
  std::int64_t seqlen = 0;   // 0: window_length's default
  std::int64_t windows = 0;  // 0: all
  WalkOptions walk;
};

// The windows of several texts, and what is known of their perplexities before a walk. A text that cannot be used has a failure
// and no windows.
struct PlannedTexts {
  std::vector<WindowPlan> plans;
  std::vector<Perplexity> results;
};
PlannedTexts plan_texts(const Model& model, const std::vector<Text>& texts, const PerplexityOptions& options, ThreadPool& pool);
// Puts the losses, result[plan][window][position], into one result: figures, or a failure where one is not finite.
void summarise_text(const WindowPlan& plan, const std::vector<std::vector<float>>& losses, Perplexity& result);

// One result per text, in order. A non-finite loss, or a text too short, is that text's failure and leaves
// the others as they are.
std::vector<Perplexity> measure_perplexity(const ForwardPass& forward, const std::vector<Text>& texts, const PerplexityOptions& options,
                                           ThreadPool& pool, const ProgressFunction& progress, WalkStatistics& statistics);

// True when the model's calibration record names this text, as prepared or as a file.
bool was_calibrated_on(const Model& model, const Text& text);

}  // namespace miq
