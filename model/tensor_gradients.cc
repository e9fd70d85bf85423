// Gradients of a layer's own tensors. In general LibTorch's autograd has them. Where our own kernels know the way back it gives the gradients
// G of the linears' outputs, and with their inputs X, seen on the way forward, a weight's gradient is G^T X. What a norm's gain does is done to
// one column of every matrix that reads the norm, so its gradient is the sum over those columns of w dL/dw, divided by the gain.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <map>
#include <optional>

#include "miq/model/bf16_layer.h"
#include "miq/model/decoder.h"
#include "miq/model/forward.h"
#include "miq/model/rope.h"

namespace miq {
namespace {

// The norm's matrices read this.
std::optional<InputSite> site_of_norm(Role role) {
  if (role == Role::InputNorm) return InputSite::Attention;
  if (role == Role::MlpNorm) return InputSite::Mlp;
  return std::nullopt;
}

// REQUIRES: our own kernels know the way back.
at::Tensor own_backward(const ForwardPass& pass, const LayerWeights& layer, const at::Tensor& hidden, const at::Tensor& gradient,
                        std::span<const std::string> tensors, const ForwardPass::GradientObserver& tensor_gradient) {
  for (const std::string& name : tensors) layer.tensor(name);  // throws where there is none
  std::map<InputPlace, at::Tensor> inputs;
  const auto keep_input = [&](InputPlace place, const at::Tensor& input) { inputs[place] = input; };
  const std::vector<LayerTensor> rules = layer_tensors(pass.model().config, layer.index);
  const auto rule_of = [&](std::string_view name) { return *std::find_if(rules.begin(), rules.end(), [&](const LayerTensor& rule) { return rule.name == name; }); };
  const auto wanted = [&](const LayerTensor& linear) {
    return std::any_of(tensors.begin(), tensors.end(), [&](const std::string& name) {
      return name == linear.name || site_of_norm(rule_of(name).rule->role) == linear.site();
    });
  };
  std::map<std::string, at::Tensor, std::less<>> found;
  const auto keep_gradient = [&](std::string_view name, const at::Tensor& g) {
    const LayerTensor rule = rule_of(name);
    if (wanted(rule)) found.emplace(name, at::mm(g.t(), inputs.at(rule.place())));
  };
  at::Tensor result = pass.backward_layer(layer, hidden, gradient, keep_gradient, keep_input);
  for (const std::string& name : tensors) {
    if (const auto weight = found.find(name); weight != found.end()) {
      tensor_gradient(name, weight->second);
      continue;
    }
    const at::Tensor& gain = layer.tensor(name);
    at::Tensor sum = at::zeros_like(gain);
    for (const auto& [linear, g] : found) {
      if (rule_of(linear).site() == site_of_norm(rule_of(name).rule->role)) sum += (g.to(at::kFloat) * layer.tensor(linear)).sum(0);
    }
    tensor_gradient(name, at::where(gain == 0, at::zeros_like(gain), sum / gain));
  }
  return result;
}

}  // namespace

at::Tensor ForwardPass::backward_tensors(const LayerWeights& layer, const at::Tensor& hidden, const at::Tensor& gradient,
                                         std::span<const std::string> tensors, const GradientObserver& tensor_gradient) const {
  use_single_threaded_torch();
  const LayerConfig& sizes = model_.config.layers.at(static_cast<std::size_t>(layer.index));
  if (sizes.identity) return gradient;
  const LayerContext context = layer_context(sizes, hidden.size(0));
  if (LayerWeights current = layer; own_way_back(current, context)) {
    const at::NoGradGuard no_grad;
    return own_backward(*this, current, hidden, gradient, tensors, tensor_gradient);
  }
  const c10::AutoGradMode with_grad(true);
  LayerWeights leaves{layer.index, layer.tensors, nullptr};
  const at::Tensor input = hidden.detach().requires_grad_(true);
  std::vector<at::Tensor> wanted{input};
  for (const std::string& name : tensors) {
    at::Tensor& leaf = leaves.tensors.at(name);
    leaf = layer.tensor(name).detach().requires_grad_(true);
    wanted.push_back(leaf);
  }
  const at::Tensor output = decode_layer(context, leaves, input, {}, {});
  const std::vector<at::Tensor> gradients = torch::autograd::grad({output}, wanted, {gradient}, std::nullopt, false, true);
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (gradients[i + 1].defined()) tensor_gradient(tensors[i], gradients[i + 1]);
  }
  return gradients[0];
}

}  // namespace miq
