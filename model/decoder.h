// One decoder layer in plain LibTorch operations: the form that autograd differentiates. The forward
// pass of evaluation (fast_decoder.h) computes the same with its own kernels.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string_view>

#include "miq/model/forward.h"
#include "miq/model/rope.h"

namespace miq {

// What one layer needs beside its weights.
struct LayerContext {
  const Config& config;
  const LayerConfig& sizes;
  ComputeType type;
  RopeTable rope;
};

// Called with the name and the output [tokens, out] of every linear.
using OutputObserver = std::function<void(std::string_view rule_name, const at::Tensor& output)>;

// hidden [tokens, hidden] float32 -> the same. Obeys the calling thread's grad mode. `inputs_only` leaves the last
// product out; the result then has no meaning.
at::Tensor decode_layer(const LayerContext& context, const LayerWeights& layer, const at::Tensor& hidden, const InputObserver& on_input,
                        const OutputObserver& on_output, bool inputs_only = false);

// x * weight / sqrt(mean(x^2) + epsilon) over the last dimension, in float32. `weight` is float32.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon);

inline at::ScalarType scalar_type(ComputeType type) { return type == ComputeType::Float32 ? at::kFloat : at::kBFloat16; }

}  // namespace miq
