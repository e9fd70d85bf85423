// The metrics as a table: --metrics names rows of it. A new metric is a file pair and a row.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "miq/base/cuda_table.h"
#include "miq/evaluate/measure_texts.h"
#include "miq/evaluate/report.h"
#include "miq/evaluate/zeroshot.h"

namespace miq {

struct EvaluationOptions {
  std::vector<std::string> metrics;    // names; see choose_metrics
  std::vector<Text> texts;             // prepared for the protocol
  PerplexityOptions perplexity;
  ZeroShotOptions zeroshot;            // its tasks: read once for all models
  ComputeType type = ComputeType::Float32;
  at::Device device = at::kCPU;              // device.h
  const MiqCudaTable* kernels = nullptr;     // our own for that device, for packed matrices; null: there are none
  DivergenceReference* reference = nullptr;  // whom `divergence` compares with; null: nobody
  CacheOptions cache;
  // Given what was measured of every token of a model, where it is set.
  std::function<void(const TextMeasures& measures)> token_sink;
  bool reference_named = false;              // by the user: then a model that cannot be compared with it is a failure
};

// What a metric works with.
struct MetricContext {
  const Model& model;
  const std::string& path;
  const EvaluationOptions& options;
  ThreadPool& pool;
  const ProgressFunction& progress;
  MemoryWatch& memory;
  ModelReport& report;
  WalkStatistics walk = {};  // of the walks so far
  double open_seconds = 0;   // what opening the model took, where the watch saw it
  std::unique_ptr<ForwardPass> made_forward = nullptr;
  const ForwardPass* used = nullptr;  // what forward() gave

  ForwardPass& forward();  // made at the first call
};

struct Metric {
  std::string_view name, summary;
  void (*measure)(MetricContext& context);
  bool shared = false;  // several processes measure it together; the others are rank 0's alone
  void (*afterwards)(MetricContext& context) = nullptr;  // when all others are done: what needs the memory for itself
};

// In the order in which they are measured: what needs the forward pass first.
std::span<const Metric> metrics();

// "all", or names separated by commas. Throws UsageError that lists the known names.
std::vector<std::string> choose_metrics(std::string_view list);

// `memory` was made before the model was opened. Progress covers this model. Of several processes
// (options.perplexity.walk.ranks) rank 0 gets the whole report; the texts, tasks and metrics are the same in all, a cache is rank 0's.
ModelReport evaluate_model(const Model& model, const std::string& path, const EvaluationOptions& options, MemoryWatch& memory,
                           ThreadPool& pool, const ProgressFunction& progress);

}  // namespace miq
