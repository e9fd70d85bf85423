// Each metric fills its part of the report. The forward pass is made once and shared; it is gone before the
// next model is opened, so memory does not grow with the number of models.
#include "miq/evaluate/metrics.h"

#include <algorithm>

#include "miq/base/error.h"
#include "miq/evaluate/generation.h"
#include "miq/evaluate/memory_budget.h"
#include "miq/evaluate/speed.h"
#include "miq/model/device.h"

namespace miq {
namespace {

bool wanted(const EvaluationOptions& options, std::string_view metric) {
  return std::find(options.metrics.begin(), options.metrics.end(), metric) != options.metrics.end();
}

bool is_reference(const MetricContext& context) {
  return context.options.reference && &context.options.reference->model() == &context.model;
}

// Perplexity and divergence, from one walk.
void measure_on_texts(MetricContext& context) {
  const EvaluationOptions& options = context.options;
  if (options.texts.empty()) return;
  DivergenceReference* reference = wanted(options, "divergence") ? options.reference : nullptr;
  const TextRun run{reference, &options.cache, context.report.digest, static_cast<bool>(options.token_sink)};
  TextMeasures measures = measure_texts(context.forward(), options.texts, options.perplexity, run, context.pool, context.progress, context.walk);
  if (options.token_sink) options.token_sink(measures);
  if (wanted(options, "ppl")) context.report.perplexity = std::move(measures.perplexity);
  context.report.divergence = std::move(measures.divergence);
  for (const Perplexity& result : context.report.perplexity) {
    if (result.failed()) context.report.failures.push_back("perplexity of " + result.text + ": " + result.failure);
  }
  for (const Divergence& result : context.report.divergence) {
    if (!result.failed() || !(result.comparable || options.reference_named)) continue;
    context.report.failures.push_back("divergence on " + result.text + ": " + result.failure);
  }
}

void measure_divergence(MetricContext& context) {
  // With `ppl` it was measured in that walk; the reference itself has none.
  if (!wanted(context.options, "ppl") && context.options.reference && !is_reference(context)) measure_on_texts(context);
}

void measure_throughput(MetricContext& context) {
  const PerplexityOptions& options = context.options.perplexity;
  const std::int64_t seqlen = window_length(protocol(options.protocol), context.model.config, options.seqlen);
  if (context.walk.tokens > 0) {
    context.report.throughput = Throughput{static_cast<double>(context.walk.tokens) / context.walk.seconds, context.walk.seconds,
                                           context.walk.tokens, seqlen, false};
  } else {
    WalkOptions walk = options.walk;
    walk.ranks = nullptr;
    context.report.throughput = measure_speed(context.forward(), seqlen, 2 * context.pool.threads(), context.pool, context.progress,
                                              walk);
  }
}

void measure_questions(MetricContext& context) {
  if (context.options.zeroshot.tasks.empty()) return;
  WalkStatistics apart;  // short sequences: not what the speed metric is about
  try {
    ZeroShotOptions zeroshot = context.options.zeroshot;
    zeroshot.walk.ranks = context.options.perplexity.walk.ranks;
    zeroshot.cache = context.options.cache;
    zeroshot.weights_digest = context.report.digest;
    context.report.zeroshot = measure_zeroshot(context.forward(), zeroshot, context.pool, context.progress, apart);
  } catch (const Error& error) {
    // What fails in one of several processes alone is no result that the others could go on with.
    if (!context.options.perplexity.walk.group().alone() && context.model.tokenizer) throw;
    context.report.failures.push_back(std::string("zeroshot: ") + error.what());
  }
  for (const ZeroShotResult& result : context.report.zeroshot) {
    if (result.failed()) context.report.failures.push_back("zeroshot " + result.task + ": " + result.failure);
  }
}

// All weights in memory at once, so behind everything that a walk layer by layer does with less.
void measure_generation_speed(MetricContext& context) {
  context.made_forward.reset();
  const std::int64_t most = context.model.config.max_positions;
  if (most < GenerationSpeed::kShortest) {
    context.report.failures.push_back("speed of generation: a model for " + std::to_string(most) + " tokens is too short to measure");
    return;
  }
  const at::Device device = context.options.device;
  const std::uint64_t budget = context.options.perplexity.walk.memory_bytes;
  const std::uint64_t needed = (device.is_cpu() ? anonymous_bytes() : 0) + generation_bytes(context.model, context.options.type, device);
  if (const DeviceMemory there = device_memory(device); there.total > 0 && needed > there.free) {
    context.report.failures.push_back("speed of generation: with all weights there it takes " + bytes_text(needed) + " of " + device.str() + ", which has " +
                                      bytes_text(there.free) + " free");
    return;
  }
  if (budget > 0 && needed > budget) {
    context.report.failures.push_back("speed of generation: with all weights in memory it takes " + bytes_text(needed) + ", more than --memory");
    return;
  }
  context.report.generation = measure_generation(context.model, context.options.type, context.open_seconds, context.pool, context.progress, device,
                                                 context.options.kernels);
}

std::int64_t evaluated_length(const MetricContext& context) {
  const PerplexityOptions& options = context.options.perplexity;
  return window_length(protocol(options.protocol), context.model.config, options.seqlen);
}

constexpr Metric kMetrics[] = {
    {"ppl", "perplexity on the given texts", measure_on_texts, true},
    {"divergence", "Kullback-Leibler divergence from the reference's predictions on the same texts", measure_divergence, true},
    {"zeroshot", "accuracy on questions with choices", measure_questions, true},
    {"speed", "tokens per second of the evaluation pass and of generation, load time", measure_throughput, false, measure_generation_speed},
    {"memory", "peak memory of opening and evaluating", [](MetricContext& context) { context.report.memory = context.memory.figures(); }},
    {"params", "parameters: total, nonzero, by part; sparsity; multiplications per token",
     [](MetricContext& context) {
       context.report.parameters = count_parameters(context.model, context.pool);
       context.report.macs = count_macs(context.model.config, evaluated_length(context));
     }},
    {"size", "bytes on disk, bits per weight",
     [](MetricContext& context) { context.report.size = measure_size(context.model, context.path, context.pool); }},
    {"structure", "what compression did to each matrix, as the container records it",
     [](MetricContext& context) { context.report.structure = structure_figures(context.model.statistics); }},
};

// Where packed matrices were decoded on a device; nothing where there are none, or no kernels for it.
void say_packed_loads(const MetricContext& context) {
  const MessageFunction& message = context.options.perplexity.walk.message;
  if (!context.used || !message) return;
  const std::string text = context.used->packed_loads().text(context.options.device.str());
  if (!text.empty()) message(context.model.name + ": " + text);
}

// What a metric takes of an evaluation's time, where a walk over texts or questions takes 1.
double time_of(const Metric& metric, const EvaluationOptions& options, bool afterwards) {
  constexpr double kShort = 0.25;
  if (!wanted(options, metric.name)) return 0;
  if (afterwards) return metric.afterwards ? kShort : 0;
  if (metric.measure == measure_on_texts) return options.texts.empty() ? 0 : 1;
  if (metric.measure == measure_divergence) return options.texts.empty() || wanted(options, "ppl") ? 0 : 1;
  if (metric.measure == measure_questions) return options.zeroshot.tasks.empty() ? 0 : 1;
  const bool walks = !options.texts.empty() && (wanted(options, "ppl") || wanted(options, "divergence"));  // whose time the speed is taken from
  return metric.measure == measure_throughput && !walks ? kShort : 0;
}

}  // namespace

ForwardPass& MetricContext::forward() {
  if (!is_reference(*this) && !made_forward) made_forward = std::make_unique<ForwardPass>(model, options.type, Kernels::Best, options.device, options.kernels);
  ForwardPass& pass = is_reference(*this) ? options.reference->forward() : *made_forward;
  used = &pass;
  return pass;
}

std::span<const Metric> metrics() { return kMetrics; }

std::vector<std::string> choose_metrics(std::string_view list) {
  std::string known = "all";
  std::vector<std::string> all, chosen;
  for (const Metric& metric : kMetrics) {
    all.emplace_back(metric.name);
    known += ", " + std::string(metric.name);
  }
  while (!list.empty()) {
    const std::size_t comma = std::min(list.find(','), list.size());
    const std::string name(list.substr(0, comma));
    list.remove_prefix(std::min(comma + 1, list.size()));
    if (name.empty()) continue;
    if (name == "all") {
      chosen = all;
    } else if (std::find(all.begin(), all.end(), name) == all.end()) {
      throw UsageError("unknown metric '" + name + "'. Known: " + known);
    } else if (std::find(chosen.begin(), chosen.end(), name) == chosen.end()) {
      chosen.push_back(name);
    }
  }
  if (chosen.empty()) throw UsageError("no metric named. Known: " + known);
  return chosen;
}

ModelReport evaluate_model(const Model& model, const std::string& path, const EvaluationOptions& options, MemoryWatch& memory,
                           ThreadPool& pool, const ProgressFunction& progress) {
  const double open_seconds = memory.seconds();
  ModelReport report;
  report.name = model.name;
  report.path = path;
  report.architecture = model.config.architecture;
  report.tokenizer = model.tokenizer ? model.tokenizer->kind() : "none";
  report.layers = static_cast<std::int64_t>(model.config.layers.size());
  report.hidden = model.config.hidden;
  report.vocabulary = model.config.vocabulary;
  report.max_positions = model.config.max_positions;
  report.method = model.method;
  report.statistics = model.statistics;
  report.calibration = model.calibration;
  report.source = model.source;
  double total = 0, begin = 0, share = 0;  // of the metrics' time: all, before the one that is measured, its own
  for (const Metric& metric : kMetrics) total += time_of(metric, options, false) + time_of(metric, options, true);
  const ProgressFunction sampling = [&](const Progress& now) {
    memory.sample();
    if (progress) progress({now.stage, begin + share * now.done / std::max(1e-9, now.total), std::max(1e-9, total)});
  };
  MetricContext context{
      .model = model, .path = path, .options = options, .pool = pool, .progress = sampling, .memory = memory, .report = report,
      .open_seconds = open_seconds};
  Ranks& ranks = options.perplexity.walk.group();
  report.digest = ranks.broadcast(ranks.first() ? weights_digest(model, pool) : std::string());
  if (is_reference(context)) options.reference->digest = report.digest;
  for (const bool afterwards : {false, true}) {
    for (const Metric& metric : kMetrics) {
      const auto measure = afterwards ? metric.afterwards : metric.measure;
      share = time_of(metric, options, afterwards);
      if (wanted(options, metric.name) && measure && (ranks.first() || (metric.shared && !afterwards))) measure(context);
      begin += share;
    }
    if (!afterwards) say_packed_loads(context);  // what comes afterwards gives the forward pass back
  }
  return report;
}

}  // namespace miq
