// Attention, then an MLP or a mixture of experts, each added to a float32 residual stream that is normalised
// before (or, in one old OPT, after) each. Products are in the compute type; norms, rotary embedding,
// routing and softmax statistics are in float32 (scaled_dot_product_attention keeps its running maximum
// and sum in float32 for bfloat16 inputs). In a sliced model the stream itself passes through a rotation
// on its way around each block (Ashkboos et al. 2024, arXiv:2401.15024, figure 4).
#include "miq/model/decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros_like.h>

#include <array>

#include "miq/base/error.h"
#include "miq/model/shared_prefix.h"

namespace miq {
namespace {

// [tokens, heads * head_dim] -> [heads, tokens, head_dim]
at::Tensor split_heads(const at::Tensor& x, std::int64_t head_dim) { return x.view({x.size(0), -1, head_dim}).transpose(0, 1); }

// Heads [heads, tokens, head_dim] in float32, rotated.
at::Tensor rotate(const at::Tensor& heads, const RopeTable& rope) {
  const std::int64_t half = heads.size(2) / 2;
  const at::Tensor low = heads.narrow(2, 0, half), high = heads.narrow(2, half, half);
  return at::cat({low * rope.cosines - high * rope.sines, high * rope.cosines + low * rope.sines}, 2);
}

// The same from heads of any type to heads of `type`, each half in two passes; the angles stay float32.
at::Tensor rotate_fused(const at::Tensor& heads, const RopeTable& rope, at::ScalarType type) {
  const std::int64_t half = heads.size(2) / 2;
  const at::Tensor low = heads.narrow(2, 0, half), high = heads.narrow(2, half, half);
  const at::Tensor out = at::empty({heads.size(1), heads.size(0), heads.size(2)}, heads.options().dtype(type)).transpose(0, 1);
  at::Tensor to_low = out.narrow(2, 0, half), to_high = out.narrow(2, half, half);
  at::addcmul_out(to_low, low * rope.cosines, high, rope.sines, -1);
  at::addcmul_out(to_high, high * rope.cosines, low, rope.sines, 1);
  return out;
}

// Key or value heads [kv_heads, tokens, head_dim], each repeated for the query heads that share it.
at::Tensor repeat_heads(const at::Tensor& x, std::int64_t heads) {
  const std::int64_t times = heads / x.size(0);
  if (times == 1) return x;
  return x.unsqueeze(1).expand({x.size(0), times, x.size(1), x.size(2)}).reshape({heads, x.size(1), x.size(2)});
}

// Which keys each query sees: its own and the window - 1 before it.
at::Tensor window_mask(std::int64_t tokens, std::int64_t window, at::Device device) {
  const at::Tensor position = at::arange(tokens, at::TensorOptions(at::kLong).device(device));
  const at::Tensor distance = position.unsqueeze(1) - position.unsqueeze(0);
  return (distance >= 0).logical_and(distance < window);
}

class LayerRun {
 public:
  LayerRun(const LayerContext& context, const LayerWeights& layer, const InputObserver& on_input, const OutputObserver& on_output)
      : context_(context), layer_(layer), rules_(architecture(context.config.architecture)), on_input_(on_input), on_output_(on_output),
        fused_(context.fused && !at::GradMode::is_enabled()) {}

  at::Tensor run(const at::Tensor& hidden, bool inputs_only) const {
    return feed(attend(hidden), inputs_only ? std::optional(InputSite::MlpOutput) : std::nullopt);
  }

  // hidden -> the stream behind attention.
  at::Tensor attend(const at::Tensor& hidden) const { return behind_attention(hidden, attention_inside(attention_input(hidden))); }

  at::Tensor attention_input(const at::Tensor& hidden) const {
    return input(InputSite::Attention, context_.config.norm_first ? norm(Role::InputNorm, hidden) : hidden);
  }

  at::Tensor attention_inside(const at::Tensor& x) const { return input(InputSite::AttentionOutput, attention(x)); }

  at::Tensor behind_attention(const at::Tensor& hidden, const at::Tensor& inside) const {
    const at::Tensor middle = carried(Role::AttentionRotation, hidden) + linear(Role::AttentionOutput, inside);
    return context_.config.norm_first ? middle : norm(Role::InputNorm, middle);
  }

  // The stream behind attention -> the layer's output, or up to the inputs of a site.
  at::Tensor feed(const at::Tensor& middle, std::optional<InputSite> last) const {
    const at::Tensor x = mlp_input(middle);
    if (context_.sizes.experts > 0) {
      const at::Tensor sum = experts(x, last);
      return last ? middle : carried(Role::MlpRotation, middle) + sum;
    }
    if (last == InputSite::Mlp) return middle;
    const at::Tensor inside = mlp_inside(x);
    return last ? middle : behind_mlp(middle, inside);
  }

  at::Tensor mlp_input(const at::Tensor& middle) const {
    return input(InputSite::Mlp, context_.config.norm_first ? norm(Role::MlpNorm, middle) : middle);
  }

  at::Tensor mlp_inside(const at::Tensor& x) const { return input(InputSite::MlpOutput, mlp(Role::Gate, Role::Up, x)); }

  at::Tensor behind_mlp(const at::Tensor& middle, const at::Tensor& inside) const {
    const at::Tensor output = carried(Role::MlpRotation, middle) + linear(Role::Down, inside);
    return context_.config.norm_first ? output : norm(Role::MlpNorm, output);
  }

 private:
  at::Tensor input(InputSite site, at::Tensor x, std::int64_t expert = -1) const {
    x = x.to(scalar_type(context_.type));
    if (on_input_) on_input_({site, expert}, x);
    return x;
  }

  at::Tensor norm(Role role, const at::Tensor& x) const {
    const Norm norm = layer_norm(context_.config, layer_, role);
    return fused_ ? normalise_fused(norm, x) : normalise(norm, x);
  }

  // The residual stream on its way around a block.
  at::Tensor carried(Role rotation, const at::Tensor& x) const {
    if (!context_.config.sliced) return x;
    const at::Tensor& q = layer_.tensor(rule_name(rules_, rotation));
    const at::Tensor input = x.to(q.scalar_type());
    return (context_.steps ? context_.steps->products(input, std::array{q.t()}).front() : input.matmul(q)).to(at::kFloat);
  }

  at::Tensor linear(Role role, const at::Tensor& x, std::int64_t expert = -1) const { return linears(std::array{role}, x, expert).front(); }

  // Matrices that read the same x.
  std::vector<at::Tensor> linears(std::span<const Role> roles, const at::Tensor& x, std::int64_t expert = -1) const {
    std::vector<std::string> names;
    std::vector<at::Tensor> weights, outputs;
    for (const Role role : roles) {
      names.push_back(expert_name(rule_name(rules_, role), expert));
      weights.push_back(layer_.tensor(names.back()));
    }
    const at::Tensor input = x.to(weights.front().scalar_type());  // routers are float32
    if (context_.steps) {
      outputs = context_.steps->products(input, weights);
    } else {
      for (const at::Tensor& weight : weights) outputs.push_back(at::linear(input, weight));
    }
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const std::string_view bias = rule_name(rules_, roles[i], true);
      const auto found = bias.empty() ? layer_.tensors.end() : layer_.tensors.find(bias);
      if (found != layer_.tensors.end()) outputs[i] = (outputs[i].to(at::kFloat) + found->second).to(outputs[i].scalar_type());
      if (on_output_) on_output_(names[i], outputs[i]);
    }
    return outputs;
  }

  // Heads of a query or key: normalised where the model does, rotated, in the compute type.
  at::Tensor positioned(const at::Tensor& x, Role norm_role) const {
    const bool rotary = context_.config.positions == Positions::Rotary;
    at::Tensor heads = split_heads(x, context_.sizes.head_dim);
    if (!fused_ || context_.config.query_key_norm) heads = heads.to(at::kFloat);
    if (context_.config.query_key_norm) heads = norm(norm_role, heads);
    if (rotary) heads = fused_ ? rotate_fused(heads, context_.rope, x.scalar_type()) : rotate(heads, context_.rope);
    if (norm_role == Role::QueryNorm && context_.rope.query_factors.defined()) heads = heads * context_.rope.query_factors;
    return heads.to(x.scalar_type());
  }

  at::Tensor attention(const at::Tensor& x) const {
    const LayerConfig& sizes = context_.sizes;
    at::Tensor q, k, v;
    if (!rule_name(rules_, Role::QueryKeyValue).empty()) {
      const at::Tensor qkv = linear(Role::QueryKeyValue, x);
      const std::int64_t query = sizes.heads * sizes.head_dim, key = sizes.kv_heads * sizes.head_dim;
      q = qkv.narrow(1, 0, query).contiguous();
      k = qkv.narrow(1, query, key).contiguous();
      v = qkv.narrow(1, query + key, key).contiguous();
    } else {
      const std::vector<at::Tensor> qkv = linears(std::array{Role::Query, Role::Key, Role::Value}, x);
      q = qkv[0], k = qkv[1], v = qkv[2];
    }
    const std::int64_t tokens = x.size(0);
    const at::Tensor queries = positioned(q, Role::QueryNorm);
    if (context_.steps) return context_.steps->attend(queries, positioned(k, Role::KeyNorm), split_heads(v, sizes.head_dim));
    const std::int64_t copies = shares_heads(tokens) ? sizes.kv_heads : sizes.heads;
    const at::Tensor keys = repeat_heads(positioned(k, Role::KeyNorm), copies);
    const at::Tensor values = repeat_heads(split_heads(v, sizes.head_dim), copies);
    const at::Tensor mixed = context_.shared ? mix_shared(queries, keys, values) : mix(queries, keys, values);
    return mixed.transpose(0, 1).reshape({tokens, sizes.heads * sizes.head_dim});
  }

  bool windowed(std::int64_t tokens) const { return context_.sizes.window > 0 && context_.sizes.window < tokens; }
  // Whether LibTorch's attention lets query heads share keys and values by itself: its flash kernels on GPUs do, which know 16-bit
  // numbers and no masks.
  bool shares_heads(std::int64_t tokens) const {
    return fused_ && context_.type == ComputeType::BFloat16 && !windowed(tokens) && context_.sizes.head_dim <= 256;
  }

  // Causal attention of one window: queries [heads, tokens, head_dim], keys and values the same, or with fewer heads.
  at::Tensor mix(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values) const {
    const std::int64_t tokens = queries.size(1), window = context_.sizes.window;
    return at::scaled_dot_product_attention(queries.unsqueeze(0), keys.unsqueeze(0), values.unsqueeze(0),
                                            windowed(tokens) ? std::optional(window_mask(tokens, window, queries.device())) : std::nullopt, 0.0,
                                            !windowed(tokens), std::nullopt, keys.size(0) != queries.size(0))
        .squeeze(0);
  }

  // The same for sequences that share rows.
  at::Tensor mix_shared(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values) const {
    std::vector<at::Tensor> mixed;
    for (const SharedSequence& sequence : context_.shared->sequences) {
      const auto rows = [&](const at::Tensor& x) {
        const at::Tensor own = x.narrow(1, sequence.begin, sequence.length);
        return sequence.prefix == 0 ? own : at::cat({x.narrow(1, sequence.prefix_begin, sequence.prefix), own}, 1);
      };
      mixed.push_back(mix(rows(queries), rows(keys), rows(values)).narrow(1, sequence.prefix, sequence.length));
    }
    return at::cat(mixed, 1);
  }

  // f of every element of x [rows, columns]. LibTorch's vectors round otherwise than the scalar code for the few elements left at a
  // tensor's end: where rows are texts of their own, whole vectors keep a row's values independent of how many rows there are.
  template <class Function>
  at::Tensor each(const at::Tensor& x, const Function& f) const {
    constexpr std::int64_t kVectors = 64;
    const std::int64_t columns = x.size(1), beyond = columns % kVectors;
    if (!context_.steps || beyond == 0) return f(x.to(at::kFloat));
    return f(at::constant_pad_nd(x.to(at::kFloat), {0, kVectors - beyond})).narrow(1, 0, columns);
  }

  at::Tensor activate(const at::Tensor& x) const {
    const auto function = [this](const at::Tensor& values) -> at::Tensor {
      switch (context_.config.activation) {
        case Activation::Silu: return at::silu(values);
        case Activation::Relu: return at::relu(values);
        case Activation::Gelu: return at::gelu(values);
        case Activation::GeluTanh: return at::gelu(values, "tanh");
      }
      throw Error("unknown activation");
    };
    return fused_ ? function(x) : each(x, function);
  }

  // What the last matrix of an MLP reads, float32.
  at::Tensor mlp(Role gate, Role up, const at::Tensor& x, std::int64_t expert = -1) const {
    if (!context_.config.gated_mlp) return activate(linear(up, x, expert));
    const std::vector<at::Tensor> both = linears(std::array{gate, up}, x, expert);
    return fused_ ? activate(both[0]).mul_(both[1]) : activate(both[0]) * both[1];
  }

  // Every token goes through the experts with its largest router probabilities, and through the shared one.
  at::Tensor experts(const at::Tensor& x, std::optional<InputSite> last) const {
    const at::Tensor probabilities = at::softmax(linear(Role::Router, x).to(at::kFloat), 1);
    auto [weights, chosen] = probabilities.topk(context_.config.experts_per_token, 1);
    if (context_.config.normalise_experts) weights = weights / weights.sum(1, true);
    at::Tensor output = at::zeros_like(x, at::TensorOptions(at::kFloat));
    for (std::int64_t expert = 0; expert < context_.sizes.experts; ++expert) {
      const at::Tensor routed = (chosen == expert).nonzero();  // [pairs, 2]: token, place among its chosen
      if (routed.size(0) == 0) continue;
      const at::Tensor tokens = routed.select(1, 0);
      const at::Tensor mine = input(InputSite::Mlp, x.index_select(0, tokens), expert);
      if (last == InputSite::Mlp) continue;
      const at::Tensor middle = input(InputSite::MlpOutput, mlp(Role::ExpertGate, Role::ExpertUp, mine, expert), expert);
      if (last) continue;
      const at::Tensor weight = weights.index({tokens, routed.select(1, 1)}).unsqueeze(1);
      output = output.index_add(0, tokens, linear(Role::ExpertDown, middle, expert).to(at::kFloat) * weight);
    }
    if (context_.sizes.shared_width > 0 && last != InputSite::Mlp) {
      const at::Tensor middle = input(InputSite::MlpOutput, mlp(Role::SharedGate, Role::SharedUp, x));
      if (last) return output;
      const at::Tensor shared = linear(Role::SharedDown, middle).to(at::kFloat);
      output = output + each(linear(Role::SharedRouter, x), [](const at::Tensor& z) { return at::sigmoid(z); }) * shared;
    }
    return output;
  }

  const LayerContext& context_;
  const LayerWeights& layer_;
  const Architecture& rules_;
  const InputObserver& on_input_;
  const OutputObserver& on_output_;
  const bool fused_;
};

}  // namespace

Norm layer_norm(const Config& config, const LayerWeights& layer, Role role) {
  // Norms within attention heads are RMS norms in every architecture that has them.
  const bool head = role == Role::QueryNorm || role == Role::KeyNorm;
  Norm norm{head ? NormKind::Rms : config.norm, config.norm_epsilon, config.hidden, {}, {}};
  if (norm.kind == NormKind::FusedRms) return norm;
  const Architecture& rules = architecture(config.architecture);
  norm.weight = layer.tensor(rule_name(rules, role));
  if (const std::string_view bias = rule_name(rules, role, true); norm.kind == NormKind::Layer && !bias.empty()) norm.bias = layer.tensor(bias);
  return norm;
}

at::Tensor decode_layer(const LayerContext& context, const LayerWeights& layer, const at::Tensor& hidden, const InputObserver& on_input,
                        const OutputObserver& on_output, bool inputs_only) {
  return LayerRun(context, layer, on_input, on_output).run(hidden, inputs_only);
}

at::Tensor LayerSequence::attention_input(const at::Tensor& hidden) const { return LayerRun(context, layer, {}, {}).attention_input(hidden); }
at::Tensor LayerSequence::attention_inside(const at::Tensor& input) const { return LayerRun(context, layer, {}, {}).attention_inside(input); }
at::Tensor LayerSequence::behind_attention(const at::Tensor& hidden, const at::Tensor& inside) const {
  return LayerRun(context, layer, {}, {}).behind_attention(hidden, inside);
}
at::Tensor LayerSequence::mlp_input(const at::Tensor& middle) const { return LayerRun(context, layer, {}, {}).mlp_input(middle); }
at::Tensor LayerSequence::mlp_inside(const at::Tensor& input) const { return LayerRun(context, layer, {}, {}).mlp_inside(input); }
at::Tensor LayerSequence::behind_mlp(const at::Tensor& middle, const at::Tensor& inside) const {
  return LayerRun(context, layer, {}, {}).behind_mlp(middle, inside);
}
at::Tensor LayerSequence::feed(const at::Tensor& middle, const InputObserver& on_input, std::optional<InputSite> last) const {
  return LayerRun(context, layer, on_input, {}).feed(middle, last);
}

at::Tensor decode_attention(const LayerContext& context, const LayerWeights& layer, const at::Tensor& hidden) {
  return LayerRun(context, layer, {}, {}).attend(hidden);
}

at::Tensor decode_mlp(const LayerContext& context, const LayerWeights& layer, const at::Tensor& middle) {
  return LayerRun(context, layer, {}, {}).feed(middle, std::nullopt);
}

}  // namespace miq
