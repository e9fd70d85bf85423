// Embedding, the walk's single steps, and the head. The logits of a block of positions are made,
// reduced to one loss (or one gradient row) a position, and dropped.
#include "miq/model/forward.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "miq/base/error.h"
#include "miq/model/bf16_layer.h"
#include "miq/model/decoder.h"
#include "miq/model/rope.h"

namespace miq {
namespace {

// Positions whose logits exist at once.
constexpr std::int64_t kLossBlock = 128;
constexpr std::int64_t kDeviceLossBlock = 1024;
// Rows of the head that are widened to float32 at once.
constexpr std::int64_t kHeadSlice = 4096;

// A tensor of the whole model by its role; undefined where this model has none.
at::Tensor global(const Model& model, Role role, bool bias, at::ScalarType type) {
  for (const GlobalTensorRule& rule : architecture(model.config.architecture).globals) {
    if (rule.role != role || rule.bias != bias || (rule.present && !rule.present(model.config))) continue;
    const std::string name(rule.name);
    return to_torch(stored_tensor(model, name), name, type);
  }
  return {};
}

}  // namespace

std::string_view compute_type_name(ComputeType type) { return type == ComputeType::Float32 ? "float32" : "bfloat16"; }

void use_single_threaded_torch() {
  thread_local bool done = false;
  if (done) return;
  at::set_num_threads(1);
  done = true;
}

ForwardPass::ForwardPass(const Model& model, ComputeType type, Kernels kernels, at::Device device, const MiqCudaTable* decoder)
    : model_(model),
      type_(type),
      kernels_(device.is_cpu() ? kernels : Kernels::Device),
      device_(device),
      loader_(std::make_unique<LayerLoader>(model, scalar_type(type), device, device_form() ? decoder : nullptr)) {
  use_single_threaded_torch();
  rope_ = std::make_unique<RopeTables>(model.config, device);
  const Config& config = model.config;
  const at::NoGradGuard no_grad;
  embedding_ = global(model, Role::Embedding, false, scalar_type(type));
  head_ = config.tied_head ? embedding_ : global(model, Role::Head, false, scalar_type(type));
  head_bias_ = global(model, Role::Head, true, at::kFloat);
  positions_ = global(model, Role::Positions, false, at::kFloat);
  embedding_projection_ = global(model, Role::EmbeddingProjection, false, scalar_type(type));
  output_projection_ = global(model, Role::OutputProjection, false, scalar_type(type));
  final_norm_ = {config.norm, config.norm_epsilon, config.hidden, global(model, Role::FinalNorm, false, at::kFloat),
                 global(model, Role::FinalNorm, true, at::kFloat)};
  if (!device.is_cpu()) {
    const at::Tensor host = embedding_;
    for (at::Tensor* tensor : {&embedding_, &head_bias_, &positions_, &embedding_projection_, &output_projection_, &final_norm_.weight, &final_norm_.bias}) {
      if (tensor->defined()) *tensor = tensor->to(device);
    }
    head_ = head_.is_same(host) ? embedding_ : head_.to(device);
  }
  const bool plain_head = (config.norm == NormKind::Rms || config.norm == NormKind::FusedRms) && config.final_norm && !head_bias_.defined() && !output_projection_.defined();
  if (kernels_ == Kernels::Best && type == ComputeType::BFloat16 && have_bf16_kernels() && plain_head && head_.size(1) % 2 == 0) {
    packs_head_ = true;
  }
}

const at::Tensor& LayerWeights::tensor(std::string_view name) const {
  const auto found = tensors.find(name);
  if (found == tensors.end()) throw Error("layer " + std::to_string(index) + " has no tensor '" + std::string(name) + "'");
  return found->second;
}

ForwardPass::~ForwardPass() = default;

LayerWeights ForwardPass::load_layer(std::int64_t index) const {
  LayerWeights layer{index, loader_->load(index), nullptr};
  prepare(layer);
  return layer;
}

LayerWeights ForwardPass::load_layer_to_run(std::int64_t index) const {
  LayerWeights layer{index, loader_->load(index), nullptr};
  if (!own_kernels(index)) return layer;
  const at::NoGradGuard no_grad;
  auto packed = std::make_shared<Bf16Layer>(model_.config, layer);
  packed->forget_linears(model_.config, index);
  for (const LayerTensor& tensor : layer_tensors(model_.config, index)) {
    if (tensor.linear()) layer.tensors.erase(tensor.name);
  }
  layer.packed = std::move(packed);
  return layer;
}

bool ForwardPass::own_kernels(std::int64_t layer) const {
  return kernels_ == Kernels::Best && type_ == ComputeType::BFloat16 &&
         Bf16Layer::supports(model_.config, model_.config.layers.at(static_cast<std::size_t>(layer)));
}

void ForwardPass::prepare(LayerWeights& layer) const {
  if (!own_kernels(layer.index) || (layer.packed && layer.packed->is_of(layer))) return;
  const at::NoGradGuard no_grad;
  layer.packed = std::make_shared<Bf16Layer>(model_.config, layer);
}

at::Tensor ForwardPass::embed(std::span<const std::int32_t> ids) const {
  std::vector<std::int64_t> positions(ids.size());
  std::iota(positions.begin(), positions.end(), std::int64_t{0});
  return embed(ids, positions);
}

at::Tensor ForwardPass::embed(std::span<const std::int32_t> ids, std::span<const std::int64_t> positions) const {
  use_single_threaded_torch();
  const at::NoGradGuard no_grad;
  const std::int64_t rows = embedding_.size(0);
  at::Tensor index = at::empty({static_cast<std::int64_t>(ids.size())}, at::kLong);
  auto* out = index.data_ptr<std::int64_t>();
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= rows) {
      throw Error("token id " + std::to_string(id) + " lies outside the embedding of " + std::to_string(rows) +
                  " rows; tokenizer and model do not belong together");
    }
    *out++ = id;
  }
  at::Tensor hidden = embedding_.index_select(0, index.to(device_));
  if (embedding_projection_.defined()) hidden = at::linear(hidden, embedding_projection_);
  hidden = hidden.to(at::kFloat);
  if (!positions_.defined()) return hidden;
  const std::int64_t last = positions.empty() ? -1 : *std::max_element(positions.begin(), positions.end());
  if (last >= positions_.size(0) - model_.config.position_offset) {
    throw Error("a window of " + std::to_string(last + 1) + " tokens is longer than the model's " +
                std::to_string(positions_.size(0) - model_.config.position_offset) + " learned positions; use a shorter one (--seqlen)");
  }
  std::transform(positions.begin(), positions.end(), index.data_ptr<std::int64_t>(), [&](std::int64_t p) { return p + model_.config.position_offset; });
  return hidden + positions_.index_select(0, index.to(device_));
}

at::Tensor ForwardPass::run_layer(const LayerWeights& layer, const at::Tensor& hidden, const InputObserver& observer) const {
  return walk_layer(layer, hidden, observer, false);
}

void ForwardPass::observe_layer(const LayerWeights& layer, const at::Tensor& hidden, const InputObserver& observer) const {
  walk_layer(layer, hidden, observer, true);
}

at::Tensor ForwardPass::walk_layer(const LayerWeights& layer, const at::Tensor& hidden, const InputObserver& observer, bool inputs_only) const {
  use_single_threaded_torch();
  const at::NoGradGuard no_grad;
  const LayerConfig& sizes = model_.config.layers.at(static_cast<std::size_t>(layer.index));
  if (sizes.identity) return hidden;
  const LayerContext context = layer_context(sizes, hidden.size(0));
  if (!own_kernels(layer.index)) return decode_layer(context, layer, hidden, observer, {}, inputs_only);
  LayerWeights current = layer;
  prepare(current);
  return current.packed->run(context, hidden.contiguous(), observer, inputs_only);
}

at::Tensor ForwardPass::run_attention(const LayerWeights& layer, const at::Tensor& hidden) const {
  use_single_threaded_torch();
  const at::NoGradGuard no_grad;
  return decode_attention(layer_context(model_.config.layers.at(static_cast<std::size_t>(layer.index)), hidden.size(0)), layer, hidden);
}

at::Tensor ForwardPass::run_mlp(const LayerWeights& layer, const at::Tensor& middle) const {
  use_single_threaded_torch();
  const at::NoGradGuard no_grad;
  return decode_mlp(layer_context(model_.config.layers.at(static_cast<std::size_t>(layer.index)), middle.size(0)), layer, middle);
}

at::Tensor ForwardPass::logits(const at::Tensor& hidden) const {
  use_single_threaded_torch();
  return project(head_input(hidden));
}

at::Tensor ForwardPass::project(const at::Tensor& head_input) const {
  use_single_threaded_torch();
  const at::NoGradGuard no_grad;
  const at::Tensor z = at::linear(head_input, head_).to(at::kFloat);
  return head_bias_.defined() ? z + head_bias_ : z;
}

at::Tensor ForwardPass::exact_logits(const at::Tensor& head_input) const {
  use_single_threaded_torch();
  const at::NoGradGuard no_grad;
  if (type_ == ComputeType::Float32) return project(head_input);
  const std::int64_t rows = head_input.size(0), vocabulary = head_.size(0);
  at::Tensor z = at::empty({rows, vocabulary}, head_input.options().dtype(at::kFloat));
  if (packs_head_) {
    std::call_once(packing_head_, [&] { packed_head_ = std::make_unique<PackedBf16>(pack_head(head_)); });
    bf16_logits(*packed_head_, head_input.contiguous(), z);
    return z;
  }
  const at::Tensor x = head_input.to(at::kFloat);
  for (std::int64_t begin = 0; begin < vocabulary; begin += kHeadSlice) {
    const std::int64_t count = std::min(kHeadSlice, vocabulary - begin);
    z.narrow(1, begin, count).copy_(at::linear(x, head_.narrow(0, begin, count).to(at::kFloat)));
  }
  return head_bias_.defined() ? z + head_bias_ : z;
}

std::uint64_t ForwardPass::global_bytes() const {
  std::uint64_t bytes = head_.is_same(embedding_) ? 0 : head_.nbytes();
  for (const at::Tensor* tensor : {&embedding_, &head_bias_, &positions_, &embedding_projection_, &output_projection_, &final_norm_.weight, &final_norm_.bias}) {
    if (tensor->defined()) bytes += tensor->nbytes();
  }
  return bytes;
}

at::Tensor ForwardPass::head_input(const at::Tensor& hidden) const {
  use_single_threaded_torch();
  const at::NoGradGuard no_grad;
  const auto norm = device_form() ? normalise_fused : normalise;
  const at::Tensor x = (model_.config.final_norm ? norm(final_norm_, hidden) : hidden).to(scalar_type(type_));
  return output_projection_.defined() ? at::linear(x, output_projection_) : x;
}

LayerContext ForwardPass::layer_context(const LayerConfig& sizes, std::int64_t tokens) const {
  LayerContext context{model_.config, sizes, type_, model_.config.positions == Positions::Rotary ? rope_->table(sizes.head_dim, tokens) : RopeTable{}};
  context.fused = device_form();
  return context;
}

std::vector<float> ForwardPass::losses(const at::Tensor& hidden, std::span<const std::int32_t> ids, std::int64_t first) const {
  const auto tokens = static_cast<std::int64_t>(ids.size());
  if (hidden.size(0) != tokens) throw Error("losses: hidden states and ids differ in number");
  first = std::max<std::int64_t>(first, 0);
  if (first >= tokens - 1) return {};
  if (packs_head_) {
    use_single_threaded_torch();
    std::call_once(packing_head_, [&] { packed_head_ = std::make_unique<PackedBf16>(pack_head(head_)); });
    const auto targets = ids.subspan(static_cast<std::size_t>(first + 1));
    const PlainNorm norm = final_norm_.kind == NormKind::FusedRms ? plain_norm(hidden.size(1), final_norm_.mean_width, final_norm_.epsilon)
                                                                  : PlainNorm{final_norm_.weight, final_norm_.epsilon};
    return bf16_losses(*packed_head_, norm.weight, norm.epsilon, hidden.contiguous(), first, targets);
  }
  return gather_losses(hidden, ids, first);
}

at::Tensor ForwardPass::targets(std::span<const std::int32_t> ids) const {
  at::Tensor index = at::empty({static_cast<std::int64_t>(ids.size()), 1}, at::kLong);
  auto* out = index.data_ptr<std::int64_t>();
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= head_.size(0)) throw Error("token id " + std::to_string(id) + " lies outside the vocabulary");
    *out++ = id;
  }
  return index.to(device_);
}

// A block's losses stay where they are made: the host waits once, for all of them.
std::vector<float> ForwardPass::gather_losses(const at::Tensor& hidden, std::span<const std::int32_t> ids, std::int64_t first) const {
  use_single_threaded_torch();
  const at::NoGradGuard no_grad;
  const auto tokens = static_cast<std::int64_t>(ids.size());
  const at::Tensor index = targets(ids.subspan(static_cast<std::size_t>(first + 1)));
  std::vector<at::Tensor> parts;
  const std::int64_t most = device_form() ? kDeviceLossBlock : kLossBlock;
  for (std::int64_t begin = first; begin < tokens - 1; begin += most) {
    const std::int64_t count = std::min(most, tokens - 1 - begin);
    const at::Tensor block = logits(hidden.narrow(0, begin, count));
    parts.push_back(at::logsumexp(block, 1) - block.gather(1, index.narrow(0, begin - first, count)).squeeze(1));
  }
  const at::Tensor all = at::cat(parts).to(at::kCPU);
  const float* values = all.const_data_ptr<float>();
  return {values, values + all.numel()};
}

at::Tensor ForwardPass::loss_gradient(const at::Tensor& hidden, std::span<const std::int32_t> ids) const {
  use_single_threaded_torch();
  const at::NoGradGuard no_grad;
  const auto tokens = static_cast<std::int64_t>(ids.size());
  if (hidden.size(0) != tokens) throw Error("loss_gradient: hidden states and ids differ in number");
  at::Tensor result = at::zeros_like(hidden);  // the last position predicts nothing
  const at::Tensor index = targets(ids.subspan(std::min<std::size_t>(1, ids.size())));
  for (std::int64_t begin = 0; begin < tokens - 1; begin += kLossBlock) {
    const std::int64_t count = std::min(kLossBlock, tokens - 1 - begin);
    const at::Tensor x = hidden.narrow(0, begin, count);
    at::Tensor difference = at::softmax(logits(x), 1);  // minus one at the target: d loss / d logits
    difference.scatter_add_(1, index.narrow(0, begin, count), at::full({count, 1}, -1, difference.options()));
    result.narrow(0, begin, count).copy_(head_backward(x, difference));
  }
  return result;
}

at::Tensor ForwardPass::head_backward(const at::Tensor& hidden, const at::Tensor& logits_gradient, at::Tensor* norm_gradient) const {
  use_single_threaded_torch();
  const at::NoGradGuard no_grad;
  at::Tensor g = logits_gradient.to(head_.scalar_type()).matmul(head_);
  if (output_projection_.defined()) g = g.matmul(output_projection_);
  g = g.to(at::kFloat);
  if (!model_.config.final_norm) return g;
  if (norm_gradient && final_norm_.weight.defined()) *norm_gradient = normalise_weight_gradient(final_norm_, hidden, g);
  return normalise_backward(final_norm_, hidden, g);
}

void ForwardPass::replace_final_norm(const at::Tensor& weight) {
  if (!final_norm_.weight.defined() || weight.scalar_type() != at::kFloat || weight.sizes() != final_norm_.weight.sizes()) {
    throw Error("replace_final_norm: the model has no final norm of this shape");
  }
  final_norm_.weight = weight;
}

bool ForwardPass::own_way_back(LayerWeights& layer, const LayerContext& context) const {
  if (!own_kernels(layer.index)) return false;
  const at::NoGradGuard no_grad;
  prepare(layer);
  return layer.packed->differentiable(context);
}

at::Tensor ForwardPass::backward_layer(const LayerWeights& layer, const at::Tensor& hidden, const at::Tensor& gradient,
                                       const GradientObserver& output_gradient, const InputObserver& inputs) const {
  use_single_threaded_torch();
  const LayerConfig& sizes = model_.config.layers.at(static_cast<std::size_t>(layer.index));
  if (sizes.identity) return gradient;
  const LayerContext context = layer_context(sizes, hidden.size(0));
  if (LayerWeights current = layer; own_way_back(current, context)) {
    const at::NoGradGuard no_grad;
    const at::Tensor plain = hidden.contiguous();
    if (inputs) observe_layer(current, plain, inputs);
    return current.packed->backward(context, plain, gradient.contiguous(), output_gradient);
  }
  const c10::AutoGradMode with_grad(true);
  const at::Tensor input = hidden.detach().requires_grad_(true);
  std::vector<std::string> names;
  std::vector<at::Tensor> wanted{input};
  InputObserver detached;
  if (inputs) detached = [&](InputPlace place, const at::Tensor& x) { inputs(place, x.detach()); };
  const at::Tensor output = decode_layer(context, layer, input, detached, [&](std::string_view name, const at::Tensor& x) {
    names.emplace_back(name);
    wanted.push_back(x);
  });
  const std::vector<at::Tensor> gradients = torch::autograd::grad({output}, wanted, {gradient});
  if (output_gradient) {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < names.size(); ++i) output_gradient(names[i], gradients[i + 1]);
  }
  return gradients[0];
}

}  // namespace miq
