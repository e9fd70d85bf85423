// Facts: modeling_qwen.py and configuration_qwen.py that the checkpoints bring along (read, never run). The
// MLP is c_proj(w1(x) * silu(w2(x))), so w2 is the gate; intermediate_size counts both. Beyond seq_length
// the rotation's base grows with the text and queries are scaled by log_seq_length(position), each where
// its flag says so.
#include "miq/model/architecture_qwen.h"

#include "miq/model/common_rules.h"

namespace miq {
namespace {

constexpr std::string_view kModelTypes[] = {"qwen"};

Shape fused_shape(const Config& c, const LayerConfig& l) { return {(l.heads + 2 * l.kv_heads) * l.head_dim, c.hidden}; }
Shape fused_bias_shape(const Config&, const LayerConfig& l) { return {(l.heads + 2 * l.kv_heads) * l.head_dim}; }

constexpr GlobalTensorRule kGlobals[] = {
    {"transformer.wte.weight", Role::Embedding, false, Part::Embedding, [](const Config& c) { return Shape{c.vocabulary, c.hidden}; }},
    {"transformer.ln_f.weight", Role::FinalNorm, false, Part::FinalNorm, [](const Config& c) { return Shape{c.hidden}; }},
    {"lm_head.weight", Role::Head, false, Part::Head, [](const Config& c) { return Shape{c.vocabulary, c.hidden}; }},
};

using enum InputSite;
constexpr LayerTensorRule kLayer[] = {
    {"ln_1.weight", Role::InputNorm, false, Part::InputNorm, false, Attention, rules::vector_shape},
    {"attn.c_attn.weight", Role::QueryKeyValue, false, Part::Attention, true, Attention, fused_shape},
    {"attn.c_attn.bias", Role::QueryKeyValue, true, Part::Attention, false, Attention, fused_bias_shape},
    {"attn.c_proj.weight", Role::AttentionOutput, false, Part::Attention, true, AttentionOutput, rules::attention_output_shape},
    {"attn.c_proj.bias", Role::AttentionOutput, true, Part::Attention, false, AttentionOutput, rules::attention_output_bias_shape, rules::output_bias},
    {"ln_2.weight", Role::MlpNorm, false, Part::PostAttentionNorm, false, Mlp, rules::vector_shape},
    {"mlp.w2.weight", Role::Gate, false, Part::Mlp, true, Mlp, rules::mlp_shape},
    {"mlp.w2.bias", Role::Gate, true, Part::Mlp, false, Mlp, rules::mlp_bias_shape, rules::mlp_bias},
    {"mlp.w1.weight", Role::Up, false, Part::Mlp, true, Mlp, rules::mlp_shape},
    {"mlp.w1.bias", Role::Up, true, Part::Mlp, false, Mlp, rules::mlp_bias_shape, rules::mlp_bias},
    {"mlp.c_proj.weight", Role::Down, false, Part::Mlp, true, MlpOutput, rules::mlp_output_shape},
    {"mlp.c_proj.bias", Role::Down, true, Part::Mlp, false, MlpOutput, rules::mlp_output_bias_shape, rules::mlp_bias},
};

// Buffers that GPT-like modules stored beside their weights.
constexpr std::string_view kIgnored[] = {"rotary_emb.inv_freq", ".attn.masked_bias", ".attn.bias", ".attn.logn_tensor"};

constexpr std::string_view kConfigKeys[] = {
    "layer_norm_epsilon", "kv_channels", "rotary_emb_base", "rotary_pct", "seq_length", "use_dynamic_ntk", "use_logn_attn", "no_bias",
    "scale_attn_weights", "attn_dropout_prob", "use_flash_attn", "apply_residual_connection_post_layernorm", "bias_dropout_fusion",
    "softmax_in_fp32", "use_cache_quantization", "use_cache_kernel"};

void read_config(const ConfigFields& fields, Config& config) {
  config.norm_epsilon = fields.positive("layer_norm_epsilon");
  if (fields.has("rotary_emb_base")) config.rope_theta = fields.positive("rotary_emb_base");
  if (fields.has("rotary_pct") && fields.positive("rotary_pct") != 1) fields.refuse("rotary_pct", "1: heads rotated in part are not supported");
  if (!fields.flag_or("scale_attn_weights", true)) fields.refuse("scale_attn_weights", "true");
  if (fields.flag_or("apply_residual_connection_post_layernorm", false)) fields.refuse("apply_residual_connection_post_layernorm", "false");
  const std::int64_t trained = fields.size_or("seq_length", config.max_positions);
  if (fields.flag_or("use_dynamic_ntk", false)) {
    config.rope_scaling.kind = RopeScaling::Kind::QwenDynamic;
    config.rope_scaling.original_max_positions = trained;
  }
  if (fields.flag_or("use_logn_attn", false)) config.log_scaled_from = trained;
  config.output_bias = config.mlp_bias = !fields.flag_or("no_bias", true);
  LayerConfig layer;
  layer.heads = layer.kv_heads = fields.size("num_attention_heads");
  if (!fields.has("kv_channels") && config.hidden % layer.heads != 0) fields.refuse("num_attention_heads", "a divisor of hidden_size");
  layer.head_dim = fields.size_or("kv_channels", config.hidden / layer.heads);
  const std::int64_t both = fields.size("intermediate_size");
  if (both % 2 != 0) fields.refuse("intermediate_size", "an even number: it counts w1 and w2");
  layer.mlp_width = both / 2;
  set_layers(fields, "num_hidden_layers", layer, config);
}

}  // namespace

const Architecture kQwen{"qwen", kModelTypes, "transformer.h.", kGlobals, kLayer, kIgnored, kConfigKeys, read_config};

}  // namespace miq
