// The walk needs no rotated weights. A block of the fused model, its input projected onto the kept axes (x Q Q^T, all of the model's
// hidden width), computes what the sliced block does in its own coordinates: norms divide by a root mean square over the
// original width, which no rotation changes. So the states stay in the original basis, a projection follows each half of a layer,
// and the rotated matrices are made once, in float64, when both rotations around them are known.
//
// The random final orientation of the original turns the kept axes among themselves, which changes no function of the model; here
// they stay as the eigensolver gives them, with signs fixed.
#include "miq/compress/slice.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <chrono>
#include <cmath>

#include "miq/base/error.h"
#include "miq/compress/dense.h"
#include "miq/compress/principal_axes.h"
#include "miq/compress/slice_fuse.h"
#include "miq/compress/text.h"
#include "miq/compress/walk.h"

namespace miq {
namespace {

using Clock = std::chrono::steady_clock;

// A basis of the stream at one place: the axes kept, and how much of its energy they hold.
struct Slice {
  at::Tensor axes;  // [hidden, width] float64
  double energy = 1;
  std::int64_t width() const { return axes.size(1); }
};

class Slicer {
 public:
  Slicer(const Model& model, const Calibration& calibration, const Recipe& recipe, ThreadPool& pool, const ProgressFunction& progress,
         const MessageFunction& message)
      : model_(model),
        calibration_(calibration),
        recipe_(recipe),
        pool_(pool),
        progress_(progress),
        message_(message),
        table_(architecture(model.config.architecture)),
        width_(sliced_width(model.config.hidden, recipe.sparsity, recipe.round_interval)) {
    check_sliceable(model.config);
    if (width_ < 1) {
      throw UsageError("--sparsity " + Json(recipe.sparsity).dump() + " of a hidden size of " + std::to_string(model.config.hidden) +
                       " leaves less than one interval of " + std::to_string(recipe.round_interval) + " channels; see --round-interval");
    }
  }

  CompressResult run() {
    const at::NoGradGuard no_grad;
    const std::int64_t layers = static_cast<std::int64_t>(model_.config.layers.size());
    total_ = static_cast<double>(2 * layers + 2);
    result_.model = model_;
    result_.model.config = sliced_config(model_.config, recipe_);
    result_.model.tensors.clear();
    const Model walked = walked_model();
    const ForwardPass forward(walked, recipe_.compute);
    embed(forward);
    Slice before = slice(width_);
    const Slice first = before;
    project(before);
    advance("embedding", 1);
    for (std::int64_t l = 0; l < layers; ++l) before = slice_layer(forward, l, layers, before);
    store_globals(first, before);
    advance("embedding and head", 1);
    describe();
    validate(result_.model);
    return std::move(result_);
  }

 private:
  void advance(const std::string& stage, double work) {
    done_ += work;
    if (progress_) progress_({stage, done_, total_});
  }

  // What embeds the windows and says how the fused layers are computed; nothing reads its head.
  Model walked_model() const {
    Model walked;
    walked.name = model_.name;
    walked.config = fused_config(model_.config);
    walked.config.head_bias = false;
    for (auto& [name, tensor] :
         fuse_globals(model_, pool_, [](Role role, const at::Tensor& rows) { return role == Role::Head ? rows.narrow(0, 0, 0) : rows; })) {
      walked.tensors.emplace(name, std::move(tensor));
    }
    return walked;
  }

  void embed(const ForwardPass& forward) {
    states_.resize(calibration_.windows.size());
    pool_.for_each(static_cast<std::int64_t>(states_.size()), [&](std::int64_t unit) {
      const auto w = static_cast<std::size_t>(unit);
      states_[w] = forward.embed(calibration_.windows[w]);
    });
  }

  Slice slice(std::int64_t width) const {
    const PrincipalAxes found = principal_axes(second_moments(states_, pool_), recipe_.damping);
    return {found.axes.narrow(1, 0, width).contiguous(), found.share(width)};
  }

  void project(const Slice& onto) {
    if (onto.width() == model_.config.hidden) return;
    const at::Tensor axes = onto.axes.to(at::kFloat), back = axes.t().contiguous();
    pool_.for_each(static_cast<std::int64_t>(states_.size()), [&](std::int64_t unit) {
      const at::NoGradGuard no_grad;
      at::Tensor& state = states_[static_cast<std::size_t>(unit)];
      state = state.matmul(axes).matmul(back);
    });
  }

  Slice slice_layer(const ForwardPass& forward, std::int64_t layer, std::int64_t layers, const Slice& before) {
    const auto start = Clock::now();
    const std::string stage = layer_stage("", layer, layers);
    const LayerMatrices fused = fuse_layer(model_, layer);
    LayerWeights weights;
    weights.index = layer;
    for (const LayerTensor& tensor : layer_tensors(forward.model().config, layer)) {
      const at::ScalarType type = tensor.linear() && forward.type() == ComputeType::BFloat16 ? at::kBFloat16 : at::kFloat;
      weights.tensors.emplace(tensor.name, fused.at(tensor.name).to(type));
    }
    const auto step = [&](auto half) {
      pool_.for_each(static_cast<std::int64_t>(states_.size()), [&](std::int64_t unit) {
        at::Tensor& state = states_[static_cast<std::size_t>(unit)];
        state = half(state);
      });
    };
    step([&](const at::Tensor& state) { return forward.run_attention(weights, state); });
    const Slice middle = slice(width_);
    project(middle);
    advance(stage, 1);
    step([&](const at::Tensor& state) { return forward.run_mlp(weights, state); });
    // The head reads the whole width.
    const Slice after = slice(layer + 1 < layers ? width_ : model_.config.hidden);
    project(after);
    store_layer(layer, fused, before, middle, after);
    advance(stage, 1);
    layers_.push_back({{"layer", layer},
                       {"input", before.width()},
                       {"middle", middle.width()},
                       {"output", after.width()},
                       {"energy", {before.energy, middle.energy, after.energy}}});
    if (message_) {
      message_(format("layer %lld  %7.2f s  widths %lld, %lld, %lld  energy kept behind attention %.5f, behind the MLP %.5f",
                      static_cast<long long>(layer), std::chrono::duration<double>(Clock::now() - start).count(),
                      static_cast<long long>(before.width()), static_cast<long long>(middle.width()), static_cast<long long>(after.width()),
                      middle.energy, after.energy));
    }
    return after;
  }

  // Matrices that read the stream become W Q, those that write to it Q^T W.
  void store_layer(std::int64_t layer, const LayerMatrices& fused, const Slice& before, const Slice& middle, const Slice& after) {
    const std::vector<LayerTensor> rules = layer_tensors(result_.model.config, layer);
    std::vector<Tensor> stored(rules.size());
    const std::string query = layer_tensor_name(table_, layer, rule_name(table_, Role::Query));
    const DType usual = replacement_dtype(model_.tensors.at(query));
    pool_.for_each(static_cast<std::int64_t>(rules.size()), [&](std::int64_t unit) {
      use_single_threaded_torch();
      const at::NoGradGuard no_grad;
      const LayerTensor& rule = rules[static_cast<std::size_t>(unit)];
      const auto source = model_.tensors.find(layer_tensor_name(table_, layer, rule.name));
      const DType dtype = source == model_.tensors.end() ? usual : replacement_dtype(source->second);
      const auto found = fused.find(rule.name);
      at::Tensor value;
      switch (rule.rule->role) {
        case Role::Query:
        case Role::Key:
        case Role::Value: value = rule.rule->bias ? found->second : found->second.matmul(before.axes); break;
        case Role::Gate:
        case Role::Up: value = rule.rule->bias ? found->second : found->second.matmul(middle.axes); break;
        case Role::AttentionOutput: value = middle.axes.t().matmul(found->second); break;
        case Role::Down: value = after.axes.t().matmul(found->second); break;
        case Role::AttentionRotation: value = before.axes.t().matmul(middle.axes); break;
        case Role::MlpRotation: value = middle.axes.t().matmul(after.axes); break;
        default: value = found->second;
      }
      stored[static_cast<std::size_t>(unit)] = dense_from_torch(value, dtype);
    });
    for (std::size_t i = 0; i < rules.size(); ++i) {
      result_.model.tensors.emplace(layer_tensor_name(table_, layer, rules[i].name), std::move(stored[i]));
    }
  }

  void store_globals(const Slice& first, const Slice& last) {
    for (auto& [name, tensor] : fuse_globals(
             model_, pool_, [&](Role role, const at::Tensor& rows) { return rows.matmul(role == Role::Head ? last.axes : first.axes); })) {
      result_.model.tensors.emplace(name, std::move(tensor));
    }
  }

  void describe() {
    Model& model = result_.model;
    Config whole = fused_config(model_.config);
    double inputs = 0;
    for (const LayerConfig& layer : model.config.layers) inputs += static_cast<double>(layer.input);
    const double mean = inputs / static_cast<double>(model.config.layers.size());
    const std::uint64_t parameters = count_elements(model.config, true), before = count_elements(whole, false);
    const double removed = 1 - static_cast<double>(parameters) / static_cast<double>(before);
    model.method = recipe_.to_json();
    model.method.update({{"actual_ratio", 1 - mean / static_cast<double>(model.config.hidden)},
                         {"parameter_ratio", removed},
                         {"sliced_head", false},
                         {"base_model", model_.name}});
    model.calibration = calibration_.description;
    model.statistics = {
        {"slicing", {{"parameters", parameters}, {"parameters_fused", before}, {"hidden_size", model.config.hidden}, {"width", width_}}},
        {"layers", layers_}};
    result_.summary = format(
        "residual stream %lld of %lld wide, %llu parameters of the fused model's %llu (%.2f %% removed; rotations and a head of its own "
        "counted)",
        static_cast<long long>(width_), static_cast<long long>(model.config.hidden), static_cast<unsigned long long>(parameters),
        static_cast<unsigned long long>(before), 100 * removed);
  }

  const Model& model_;
  const Calibration& calibration_;
  const Recipe& recipe_;
  ThreadPool& pool_;
  const ProgressFunction& progress_;
  const MessageFunction& message_;
  const Architecture& table_;
  const std::int64_t width_;
  CompressResult result_;
  std::vector<at::Tensor> states_;  // [tokens, hidden] float32 each, on the axes kept so far
  Json layers_ = Json::array();
  double done_ = 0, total_ = 1;
};

}  // namespace

Config sliced_config(const Config& config, const Recipe& recipe) {
  Config sliced = fused_config(config);
  sliced.sliced = true;
  const std::int64_t width = sliced_width(config.hidden, recipe.sparsity, recipe.round_interval);
  for (LayerConfig& layer : sliced.layers) layer.input = layer.middle = layer.output = width;
  if (!sliced.layers.empty()) sliced.layers.back().output = config.hidden;
  return sliced;
}

std::uint64_t count_elements(const Config& config, bool rotations) {
  std::uint64_t count = 0;
  for (const ExpectedTensor& tensor : expected_tensors(config)) {
    if (tensor.part == Part::Rotation && !rotations) continue;
    std::uint64_t elements = 1;
    for (const std::int64_t size : tensor.shape) elements *= static_cast<std::uint64_t>(size);
    count += elements;
  }
  return count;
}

CompressResult slice_model(const Model& model, const Calibration& calibration, const Recipe& recipe, ThreadPool& pool,
                           const ProgressFunction& progress, const MessageFunction& message) {
  if (calibration.windows.empty()) throw Error("no calibration windows");
  return Slicer(model, calibration, recipe, pool, progress, message).run();
}

}  // namespace miq
