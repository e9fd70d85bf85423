// The normalisations of the residual stream (NormKind in config.h), forward and backward, in float32.
#pragma once

#include <ATen/core/Tensor.h>

#include "miq/model/config.h"

namespace miq {

// `weight` and `bias` are float32 [width], or undefined where the kind has none.
struct Norm {
  NormKind kind = NormKind::Rms;
  double epsilon = 1e-5;
  std::int64_t mean_width = 0;  // FusedRms: what the sum of squares is divided by
  at::Tensor weight, bias;
};

// x [tokens, width] float32 -> the same.
at::Tensor normalise(const Norm& norm, const at::Tensor& x);
// The same by LibTorch's fused operations where it has one for the kind: one pass over memory instead of five. Not for gradients.
at::Tensor normalise_fused(const Norm& norm, const at::Tensor& x);
// d loss / d x, given d loss / d normalise(x).
at::Tensor normalise_backward(const Norm& norm, const at::Tensor& x, const at::Tensor& gradient);
// d loss / d weight, summed over the rows of x [tokens, width]: [width]. REQUIRES a norm with a weight.
at::Tensor normalise_weight_gradient(const Norm& norm, const at::Tensor& x, const at::Tensor& gradient);

}  // namespace miq
