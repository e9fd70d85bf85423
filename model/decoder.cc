// The pre-norm decoder of Llama: attention with rotary positions and grouped key/value heads, then a
// gated MLP, each added to a float32 residual stream. Products are in the compute type; norms, rotary
// embedding and softmax statistics are in float32 (scaled_dot_product_attention keeps its running
// maximum and sum in float32 for bfloat16 inputs).
#include "miq/model/decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/silu.h>

#include "miq/base/error.h"

namespace miq {
namespace {

const at::Tensor& weight(const LayerWeights& layer, std::string_view name) {
  const auto found = layer.tensors.find(name);
  if (found == layer.tensors.end()) throw Error("layer " + std::to_string(layer.index) + " has no tensor '" + std::string(name) + "'");
  return found->second;
}

// [tokens, heads * head_dim] -> [heads, tokens, head_dim], rotated, in the type of `x`.
at::Tensor rotate(const at::Tensor& x, std::int64_t head_dim, const RopeTable& rope) {
  const at::Tensor heads = x.view({x.size(0), -1, head_dim}).transpose(0, 1).to(at::kFloat);
  const std::int64_t half = head_dim / 2;
  const at::Tensor low = heads.narrow(2, 0, half), high = heads.narrow(2, half, half);
  return at::cat({low * rope.cosines - high * rope.sines, high * rope.cosines + low * rope.sines}, 2).to(x.scalar_type());
}

// Key or value heads [kv_heads, tokens, head_dim], each repeated for the query heads that share it.
at::Tensor repeat_heads(const at::Tensor& x, std::int64_t heads) {
  const std::int64_t times = heads / x.size(0);
  if (times == 1) return x;
  return x.unsqueeze(1).expand({x.size(0), times, x.size(1), x.size(2)}).reshape({heads, x.size(1), x.size(2)});
}

at::Tensor attention(const LayerContext& context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const LayerConfig& sizes = context.sizes;
  const std::int64_t tokens = q.size(0);
  const at::Tensor queries = rotate(q, sizes.head_dim, context.rope);
  const at::Tensor keys = repeat_heads(rotate(k, sizes.head_dim, context.rope), sizes.heads);
  const at::Tensor values = repeat_heads(v.view({tokens, sizes.kv_heads, sizes.head_dim}).transpose(0, 1), sizes.heads);
  const at::Tensor mixed = at::scaled_dot_product_attention(queries.unsqueeze(0), keys.unsqueeze(0), values.unsqueeze(0), {}, 0.0, true);
  return mixed.squeeze(0).transpose(0, 1).reshape({tokens, sizes.heads * sizes.head_dim});
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  return x * (x.square().mean(-1, true) + epsilon).rsqrt() * weight;
}

at::Tensor decode_layer(const LayerContext& context, const LayerWeights& layer, const at::Tensor& hidden, const InputObserver& on_input,
                        const OutputObserver& on_output, bool inputs_only) {
  const at::ScalarType type = scalar_type(context.type);
  const auto input = [&](InputSite site, at::Tensor x) {
    x = x.to(type);
    if (on_input) on_input(site, x);
    return x;
  };
  const auto linear = [&](std::string_view name, const at::Tensor& x) {
    at::Tensor output = at::linear(x, weight(layer, name));
    if (on_output) on_output(name, output);
    return output;
  };
  const double epsilon = context.config.norm_epsilon;

  at::Tensor x = input(InputSite::Attention, rms_norm(hidden, weight(layer, "input_layernorm.weight"), epsilon));
  const at::Tensor q = linear("self_attn.q_proj.weight", x), k = linear("self_attn.k_proj.weight", x);
  const at::Tensor v = linear("self_attn.v_proj.weight", x);
  x = input(InputSite::AttentionOutput, attention(context, q, k, v));
  const at::Tensor middle = hidden + linear("self_attn.o_proj.weight", x);

  x = input(InputSite::Mlp, rms_norm(middle, weight(layer, "post_attention_layernorm.weight"), epsilon));
  const at::Tensor gate = linear("mlp.gate_proj.weight", x), up = linear("mlp.up_proj.weight", x);
  x = input(InputSite::MlpOutput, at::silu(gate.to(at::kFloat)) * up);
  return inputs_only ? middle : middle + linear("mlp.down_proj.weight", x);
}

}  // namespace miq
