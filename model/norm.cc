// With r = 1 / sqrt(mean(x^2) + epsilon) and g the gradient times the weight, d loss / d x of the RMS norm is
// g r - x r^3 mean(g x); the layer norm's is that of the RMS norm of x - mean(x), with its own mean taken out.
#include "miq/model/norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/rms_norm.h>

#include <optional>

namespace miq {
namespace {

at::Tensor mean_of(const Norm& norm, const at::Tensor& x) {
  return norm.kind == NormKind::FusedRms ? x.sum(-1, true) / static_cast<double>(norm.mean_width) : x.mean(-1, true);
}

at::Tensor inverse_deviation(const Norm& norm, const at::Tensor& x) { return (mean_of(norm, x.square()) + norm.epsilon).rsqrt(); }

at::Tensor centred(const Norm& norm, const at::Tensor& x) { return norm.kind == NormKind::Layer ? x - x.mean(-1, true) : x; }

}  // namespace

at::Tensor normalise(const Norm& norm, const at::Tensor& x) {
  const at::Tensor c = centred(norm, x);
  at::Tensor y = c * inverse_deviation(norm, c);
  if (norm.weight.defined()) y = y * norm.weight;
  return norm.bias.defined() ? y + norm.bias : y;
}

at::Tensor normalise_fused(const Norm& norm, const at::Tensor& x) {
  if (norm.kind == NormKind::FusedRms) return normalise(norm, x);
  const std::optional<at::Tensor> weight = norm.weight.defined() ? std::optional(norm.weight) : std::nullopt;
  const std::optional<at::Tensor> bias = norm.bias.defined() ? std::optional(norm.bias) : std::nullopt;
  if (norm.kind == NormKind::Layer) return at::layer_norm(x, {x.size(-1)}, weight, bias, norm.epsilon);
  const at::Tensor y = at::rms_norm(x, {x.size(-1)}, weight, norm.epsilon);
  return bias ? y + *bias : y;
}

at::Tensor normalise_backward(const Norm& norm, const at::Tensor& x, const at::Tensor& gradient) {
  const at::Tensor c = centred(norm, x), r = inverse_deviation(norm, c);
  const at::Tensor g = norm.weight.defined() ? gradient * norm.weight : gradient;
  return centred(norm, g * r - c * r.pow(3) * mean_of(norm, g * c));
}

at::Tensor normalise_weight_gradient(const Norm& norm, const at::Tensor& x, const at::Tensor& gradient) {
  const at::Tensor c = centred(norm, x);
  return (gradient * c * inverse_deviation(norm, c)).sum(0);
}

}  // namespace miq
