// Shapes are [out, in]. The order of the layer's rows is the order of the forward pass. In a model sliced
// by SliceGPT the norms are fused into the matrices that they feed, and two rotations carry the residual
// stream from one width to the next (Ashkboos et al. 2024, arXiv:2401.15024).
#include "miq/model/architecture_llama.h"

#include "miq/model/config_fields.h"

namespace miq {
namespace {

constexpr std::string_view kModelTypes[] = {"llama"};

bool has_norm_weights(const Config& c) { return c.norm != NormKind::FusedRms; }
bool layer_norm_weights(const Config& c, const LayerConfig&) { return has_norm_weights(c); }
bool sliced(const Config& c, const LayerConfig&) { return c.sliced; }
bool query_bias(const Config& c, const LayerConfig&) { return c.query_bias; }
bool output_bias(const Config& c, const LayerConfig&) { return c.output_bias; }
bool mlp_bias(const Config& c, const LayerConfig&) { return c.mlp_bias; }

constexpr GlobalTensorRule kGlobals[] = {
    {"model.embed_tokens.weight", Role::Embedding, false, Part::Embedding, [](const Config& c) { return Shape{c.vocabulary, embedding_width(c)}; }},
    {"model.norm.weight", Role::FinalNorm, false, Part::FinalNorm, [](const Config& c) { return Shape{c.hidden}; }, has_norm_weights},
    {"lm_head.weight", Role::Head, false, Part::Head, [](const Config& c) { return Shape{c.vocabulary, head_width(c)}; }},
};

Shape vector_shape(const Config& c, const LayerConfig&) { return {c.hidden}; }
Shape query_shape(const Config& c, const LayerConfig& l) { return {l.heads * l.head_dim, input_width(c, l)}; }
Shape key_value_shape(const Config& c, const LayerConfig& l) { return {l.kv_heads * l.head_dim, input_width(c, l)}; }
Shape query_bias_shape(const Config&, const LayerConfig& l) { return {l.heads * l.head_dim}; }
Shape key_value_bias_shape(const Config&, const LayerConfig& l) { return {l.kv_heads * l.head_dim}; }
Shape attention_output_shape(const Config& c, const LayerConfig& l) { return {middle_width(c, l), l.heads * l.head_dim}; }
Shape attention_output_bias_shape(const Config& c, const LayerConfig& l) { return {middle_width(c, l)}; }
Shape attention_rotation_shape(const Config& c, const LayerConfig& l) { return {input_width(c, l), middle_width(c, l)}; }
Shape mlp_shape(const Config& c, const LayerConfig& l) { return {l.mlp_width, middle_width(c, l)}; }
Shape mlp_bias_shape(const Config&, const LayerConfig& l) { return {l.mlp_width}; }
Shape mlp_output_shape(const Config& c, const LayerConfig& l) { return {output_width(c, l), l.mlp_width}; }
Shape mlp_output_bias_shape(const Config& c, const LayerConfig& l) { return {output_width(c, l)}; }
Shape mlp_rotation_shape(const Config& c, const LayerConfig& l) { return {middle_width(c, l), output_width(c, l)}; }

using enum InputSite;
constexpr LayerTensorRule kLayer[] = {
    {"input_layernorm.weight", Role::InputNorm, false, Part::InputNorm, false, Attention, vector_shape, layer_norm_weights},
    {"self_attn.q_proj.weight", Role::Query, false, Part::Attention, true, Attention, query_shape},
    {"self_attn.q_proj.bias", Role::Query, true, Part::Attention, false, Attention, query_bias_shape, query_bias},
    {"self_attn.k_proj.weight", Role::Key, false, Part::Attention, true, Attention, key_value_shape},
    {"self_attn.k_proj.bias", Role::Key, true, Part::Attention, false, Attention, key_value_bias_shape, query_bias},
    {"self_attn.v_proj.weight", Role::Value, false, Part::Attention, true, Attention, key_value_shape},
    {"self_attn.v_proj.bias", Role::Value, true, Part::Attention, false, Attention, key_value_bias_shape, query_bias},
    {"self_attn.o_proj.weight", Role::AttentionOutput, false, Part::Attention, true, AttentionOutput, attention_output_shape},
    {"self_attn.o_proj.bias", Role::AttentionOutput, true, Part::Attention, false, AttentionOutput, attention_output_bias_shape, output_bias},
    {"attn_shortcut_Q", Role::AttentionRotation, false, Part::Rotation, false, Attention, attention_rotation_shape, sliced},
    {"post_attention_layernorm.weight", Role::MlpNorm, false, Part::PostAttentionNorm, false, Mlp, vector_shape, layer_norm_weights},
    {"mlp.gate_proj.weight", Role::Gate, false, Part::Mlp, true, Mlp, mlp_shape},
    {"mlp.gate_proj.bias", Role::Gate, true, Part::Mlp, false, Mlp, mlp_bias_shape, mlp_bias},
    {"mlp.up_proj.weight", Role::Up, false, Part::Mlp, true, Mlp, mlp_shape},
    {"mlp.up_proj.bias", Role::Up, true, Part::Mlp, false, Mlp, mlp_bias_shape, mlp_bias},
    {"mlp.down_proj.weight", Role::Down, false, Part::Mlp, true, MlpOutput, mlp_output_shape},
    {"mlp.down_proj.bias", Role::Down, true, Part::Mlp, false, MlpOutput, mlp_output_bias_shape, mlp_bias},
    {"mlp_shortcut_Q", Role::MlpRotation, false, Part::Rotation, false, Mlp, mlp_rotation_shape, sliced},
};

// Computed from the config in every newer implementation; files of older ones carry it.
constexpr std::string_view kIgnored[] = {"rotary_emb.inv_freq"};

constexpr std::string_view kConfigKeys[] = {
    "attention_bias", "mlp_bias",
    // slices the same products over devices
    "pretraining_tp",
    // SmolLM's notes to its converters: the layout it already has
    "is_llama_config", "rope_interleaved", "transformers.js_config"};

void read_config(const ConfigFields& fields, Config& config) {
  read_rotary_decoder(fields, config);
  if (fields.json().value("rope_interleaved", false)) {
    throw FormatError(fields.name(), "key 'rope_interleaved' is true: interleaved rotary positions are not supported");
  }
  config.query_bias = config.output_bias = fields.flag_or("attention_bias", false);
  config.mlp_bias = fields.flag_or("mlp_bias", false);
}

}  // namespace

const Architecture kLlama{"llama", kModelTypes, "model.layers.", kGlobals, kLayer, kIgnored, kConfigKeys, read_config};

}  // namespace miq
