// Sliced layers on AVX512-BF16 CPUs (bf16_layer.h): the residual stream has a width of its own before, within and after each layer, passes
// through a rotation on its way around each block, and its norms have no weights.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "miq/model/bf16_product.h"
#include "miq/model/config.h"

namespace miq {

// Whether the kernels fit such a layer's stream: they need even widths.
bool sliced_widths_fit(const Config& config, const LayerConfig& sizes);

// A rotation [in, out], in float32 as the stream is: a rounded one would wear the stream off, block by block. Packed in panels of 32 columns.
// A sum runs over the inner dimension in order.
class Rotation {
 public:
  Rotation() = default;
  explicit Rotation(const at::Tensor& rotation);

  std::int64_t in() const { return in_; }
  std::int64_t out() const { return out_; }
  // to[t] = x[t] times the rotation: rows of in() and out() floats.
  void carry(const float* x, std::int64_t tokens, float* to) const;

 private:
  std::int64_t in_ = 0, out_ = 0;
  std::vector<float> packed_;
};

// to[t] = x[t] / sqrt(sum(x[t]^2) / mean_width + epsilon), rows of n floats: NormKind::FusedRms.
void fused_rms_norm_bf16(const float* x, std::int64_t tokens, std::int64_t n, std::int64_t mean_width, double epsilon, Bf16* to);

// The plain RMS norm that does what a fused one does to rows of `width`: its weight, all equal, and its epsilon.
struct PlainNorm {
  at::Tensor weight;
  double epsilon;
};
PlainNorm plain_norm(std::int64_t width, std::int64_t mean_width, double epsilon);

}  // namespace miq
