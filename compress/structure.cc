// Scores and the plan come from the dense model; then layer by layer, behind those that are already smaller: what the output matrices
// read, the fit, the cut. The model under work and its config change in place, and the forward pass reads both.
#include "miq/compress/structure.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

#include "miq/base/error.h"
#include "miq/compress/dense.h"
#include "miq/compress/hessian.h"
#include "miq/compress/structure_parts.h"
#include "miq/compress/structure_scores.h"
#include "miq/compress/text.h"
#include "miq/compress/walk.h"

namespace miq {
namespace {

using Clock = std::chrono::steady_clock;

std::int64_t linear_weights(const Config& config, std::int64_t layer) {
  std::int64_t sum = 0;
  for (const LayerTensor& tensor : layer_tensors(config, layer)) {
    if (tensor.linear()) sum += tensor.shape[0] * tensor.shape[1];
  }
  return sum;
}

std::int64_t linear_weights(const Config& config) {
  std::int64_t sum = 0;
  for (std::size_t l = 0; l < config.layers.size(); ++l) sum += linear_weights(config, static_cast<std::int64_t>(l));
  return sum;
}

double share(std::int64_t part, std::int64_t whole) { return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0; }

class Remover {
 public:
  Remover(const Model& model, const Calibration& calibration, const Recipe& recipe, ThreadPool& pool, const ProgressFunction& progress,
          const MessageFunction& message)
      : dense_(model),
        calibration_(calibration),
        recipe_(recipe),
        pool_(pool),
        progress_(progress),
        message_(message),
        table_(architecture(model.config.architecture)) {
    result_.model = model;
  }

  CompressResult run() {
    const at::NoGradGuard no_grad;
    const bool layers = recipe_.removed_parts == RemovedParts::Layers;
    total_ = layers || !recipe_.compensate ? 1 : 2;
    layers ? remove_layers() : remove_channels();
    describe();
    validate(result_.model);
    return std::move(result_);
  }

 private:
  std::int64_t layers() const { return static_cast<std::int64_t>(dense_.config.layers.size()); }
  bool whole(std::int64_t layer) const {
    return layer < recipe_.protected_first || layer >= layers() - recipe_.protected_last ||
           dense_.config.layers[static_cast<std::size_t>(layer)].identity;
  }
  void advance(std::string_view stage, double work) {
    done_ += work;
    if (progress_) progress_({stage, done_, total_});
  }

  // The layers that turn the stream least, while their weights fit.
  void remove_layers() {
    const ForwardPass dense(dense_, recipe_.compute);
    const std::vector<double> turns =
        measure_turns(dense, calibration_, pool_, [&](std::string_view stage, double work) { advance(stage, work); });
    std::vector<std::int64_t> order(turns.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return turns[static_cast<std::size_t>(a)] < turns[static_cast<std::size_t>(b)];
    });
    const double budget = recipe_.sparsity * static_cast<double>(linear_weights(dense_.config));
    double taken = 0;
    std::int64_t left =
        std::count_if(dense_.config.layers.begin(), dense_.config.layers.end(), [](const LayerConfig& layer) { return !layer.identity; });
    for (const std::int64_t l : order) {
      const auto weights = static_cast<double>(linear_weights(dense_.config, l));
      if (whole(l) || left == 1 || taken + weights > budget * (1 + 1e-12)) continue;
      taken += weights;
      --left;
      for (const LayerTensor& tensor : layer_tensors(dense_.config, l))
        result_.model.tensors.erase(layer_tensor_name(table_, l, tensor.name));
      LayerConfig& sizes = result_.model.config.layers[static_cast<std::size_t>(l)];
      sizes = {};
      sizes.identity = true;
    }
    for (std::int64_t l = 0; l < layers(); ++l) {
      const bool removed = result_.model.config.layers[static_cast<std::size_t>(l)].identity;
      Json& entry = statistics_.emplace_back(Json{{"layer", l}, {"turn", turns[static_cast<std::size_t>(l)]}, {"removed", removed}});
      if (message_) {
        message_(format("layer %lld  turns the stream by %.5f%s", static_cast<long long>(l), entry["turn"].get<double>(),
                        removed ? "  removed" : ""));
      }
    }
  }

  void remove_channels() {
    const std::vector<KeptParts> kept = plan();
    const ForwardPass forward(result_.model, recipe_.compute);
    std::optional<Walk> walk;
    std::int64_t last = -1;  // the last layer that loses anything
    for (std::int64_t l = 0; l < layers(); ++l) {
      if (loses(l, kept[static_cast<std::size_t>(l)])) last = l;
    }
    if (recipe_.compensate && last >= 0) walk.emplace(forward, calibration_, pool_);
    for (std::int64_t l = 0; l < layers(); ++l) {
      const auto start = Clock::now();
      const KeptParts& parts = kept[static_cast<std::size_t>(l)];
      const bool cuts = loses(l, parts);
      std::map<InputSite, at::Tensor> hessians;
      if (walk && cuts) hessians = observe(forward, *walk, l);
      if (cuts) cut_layer(l, parts, hessians);
      if (walk && l < last) walk->advance(forward.load_layer(l));
      if (recipe_.compensate)
        advance(layer_stage("", l, layers()), 1.0 / static_cast<double>(layers()));
      describe_layer(l, std::chrono::duration<double>(Clock::now() - start).count());
    }
  }

  std::vector<KeptParts> plan() {
    const ForwardPass dense(dense_, recipe_.compute);
    std::vector<LayerScores> scores = measure_scores(dense, calibration_, recipe_.removal_score, pool_,
                                                     [&](std::string_view stage, double work) { advance(stage, work); });
    std::vector<LayerParts> parts(scores.size());
    for (std::int64_t l = 0; l < layers(); ++l) {
      LayerParts& layer = parts[static_cast<std::size_t>(l)];
      const LayerConfig& sizes = dense_.config.layers[static_cast<std::size_t>(l)];
      layer.whole = whole(l);
      layer.weights = linear_weights(dense_.config, l);
      layer.group_scores = std::move(scores[static_cast<std::size_t>(l)].groups);
      layer.channel_scores = std::move(scores[static_cast<std::size_t>(l)].channels);
      for (const LayerTensor& tensor : layer_tensors(dense_.config, l)) {
        if (!tensor.linear()) continue;
        const Ownership owned = ownership(tensor.rule->role, sizes);
        const std::int64_t weights = tensor.shape[0] * tensor.shape[1];
        if (owned.of == Ownership::Of::HeadGroups) layer.group_weights += weights / sizes.kv_heads;
        if (owned.of == Ownership::Of::Channels) layer.channel_weights += weights / sizes.mlp_width;
      }
    }
    return plan_removal(parts, recipe_.sparsity, recipe_.sparsity_allocation);
  }

  bool loses(std::int64_t layer, const KeptParts& kept) const {
    const LayerConfig& sizes = dense_.config.layers[static_cast<std::size_t>(layer)];
    return static_cast<std::int64_t>(kept.groups.size()) < sizes.kv_heads ||
           static_cast<std::int64_t>(kept.channels.size()) < sizes.mlp_width;
  }

  std::map<InputSite, at::Tensor> observe(const ForwardPass& forward, Walk& walk, std::int64_t layer) {
    std::map<InputSite, HessianSum> sums;
    walk.observe(
        forward.load_layer(layer),
        [&](InputPlace place, std::span<const at::Tensor> batch) {
          if (place.site != InputSite::AttentionOutput && place.site != InputSite::MlpOutput) return;
          sums.try_emplace(place.site, batch.front().size(1)).first->second.add(batch, pool_);
        },
        false);
    std::map<InputSite, at::Tensor> means;
    for (const auto& [site, sum] : sums) means.emplace(site, sum.mean());
    return means;
  }

  void cut_layer(std::int64_t layer, const KeptParts& kept, const std::map<InputSite, at::Tensor>& hessians) {
    LayerConfig& sizes = result_.model.config.layers[static_cast<std::size_t>(layer)];
    for (const LayerTensor& tensor : layer_tensors(dense_.config, layer)) {
      const Ownership owned = ownership(tensor.rule->role, sizes);
      const bool bias = tensor.rule->bias;
      if (owned.of == Ownership::Of::Nobody || (bias && !owned.rows) || (!tensor.linear() && !bias)) continue;
      const std::vector<std::int64_t>& parts = owned.of == Ownership::Of::HeadGroups ? kept.groups : kept.channels;
      std::vector<std::int64_t> lines;
      for (std::size_t i = 0; i < owned.owner.size(); ++i) {
        if (std::binary_search(parts.begin(), parts.end(), owned.owner[i])) lines.push_back(static_cast<std::int64_t>(i));
      }
      if (lines.size() == owned.owner.size()) continue;
      const std::string name = layer_tensor_name(table_, layer, tensor.name);
      Tensor& stored = result_.model.tensors.at(name);
      const at::Tensor values = to_torch(stored, name, at::kFloat);
      if (owned.rows) {
        stored = dense_from_torch(values.index_select(0, at::tensor(lines, at::TensorOptions(at::kLong))), replacement_dtype(stored));
        continue;
      }
      const auto hessian = hessians.find(tensor.site());
      const FittedColumns fitted = fit_columns(values, hessian == hessians.end() ? at::Tensor() : hessian->second, lines, recipe_.damping,
                                               recipe_.compensate, pool_);
      stored = dense_from_torch(fitted.weights, replacement_dtype(stored));
      if (hessian == hessians.end()) continue;
      errors_[layer][short_linear_name(tensor.name)] = fitted.error;
      if (recipe_.compensate && !fitted.fitted && message_) {
        message_(name + ": what is left could not be fitted to what was there (no factorisation); a larger --damping helps");
      }
    }
    const std::int64_t shared = sizes.heads / sizes.kv_heads;
    sizes.kv_heads = static_cast<std::int64_t>(kept.groups.size());
    sizes.heads = sizes.kv_heads * shared;
    sizes.mlp_width = static_cast<std::int64_t>(kept.channels.size());
  }

  void describe_layer(std::int64_t layer, double seconds) {
    const LayerConfig &now = result_.model.config.layers[static_cast<std::size_t>(layer)],
                      &before = dense_.config.layers[static_cast<std::size_t>(layer)];
    const std::int64_t weights = linear_weights(dense_.config, layer), left = linear_weights(result_.model.config, layer);
    Json entry{{"layer", layer},
               {"heads", now.heads},
               {"kv_heads", now.kv_heads},
               {"mlp_width", now.mlp_width},
               {"removed", 1 - share(left, weights)}};
    std::string line =
        format("layer %lld  %7.2f s  heads %lld of %lld  MLP %lld of %lld  removed %.2f %%", static_cast<long long>(layer), seconds,
               static_cast<long long>(now.heads), static_cast<long long>(before.heads), static_cast<long long>(now.mlp_width),
               static_cast<long long>(before.mlp_width), 100 * (1 - share(left, weights)));
    for (const auto& [name, error] : errors_[layer]) {
      entry["error"][name] = error;
      line += format("  error of %s %.5f", name.c_str(), error);
    }
    statistics_.push_back(std::move(entry));
    if (message_) message_(line);
  }

  void describe() {
    Model& model = result_.model;
    const std::int64_t before = linear_weights(dense_.config), left = linear_weights(model.config);
    model.method = recipe_.to_json();
    model.calibration = calibration_.description;
    model.statistics = {{"structure", {{"weights", left}, {"weights_before", before}, {"removed", 1 - share(left, before)}}},
                        {"layers", statistics_}};
    result_.summary = format("weights of the decoder layers: %lld of %lld left, %.3f %% removed", static_cast<long long>(left),
                             static_cast<long long>(before), 100 * (1 - share(left, before)));
  }

  const Model& dense_;
  const Calibration& calibration_;
  const Recipe& recipe_;
  ThreadPool& pool_;
  const ProgressFunction& progress_;
  const MessageFunction& message_;
  const Architecture& table_;
  CompressResult result_;
  std::map<std::int64_t, std::map<std::string, double>> errors_;  // by layer and matrix
  Json statistics_ = Json::array();
  double done_ = 0, total_ = 1;
};

}  // namespace

void check_structure(const Config& config, const Recipe& recipe) {
  if (recipe.removed_parts == RemovedParts::Layers) return;
  for (const LayerConfig& layer : config.layers) {
    if (layer.experts > 0) {
      throw UsageError(
          "method structured: channels of a mixture's experts are not removed; --remove layers takes whole layers of such a model");
    }
  }
}

CompressResult structure_model(const Model& model, const Calibration& calibration, const Recipe& recipe, ThreadPool& pool,
                               const ProgressFunction& progress, const MessageFunction& message) {
  if (calibration.windows.empty()) throw Error("no calibration windows");
  return Remover(model, calibration, recipe, pool, progress, message).run();
}

}  // namespace miq
