// Shapes are [out, in]. The order of the layer's rows is the order of the forward pass.
#include "miq/model/architecture_llama.h"

namespace miq {
namespace {

constexpr std::string_view kModelTypes[] = {"llama"};

constexpr GlobalTensorRule kGlobals[] = {
    {"model.embed_tokens.weight", Part::Embedding, [](const Config& c) { return Shape{c.vocabulary, c.hidden}; }},
    {"model.norm.weight", Part::FinalNorm, [](const Config& c) { return Shape{c.hidden}; }},
    {"lm_head.weight", Part::Head, [](const Config& c) { return Shape{c.vocabulary, c.hidden}; }},
};

Shape vector_shape(const Config& c, const LayerConfig&) { return {c.hidden}; }
Shape query_shape(const Config& c, const LayerConfig& l) { return {l.heads * l.head_dim, c.hidden}; }
Shape key_value_shape(const Config& c, const LayerConfig& l) { return {l.kv_heads * l.head_dim, c.hidden}; }
Shape attention_output_shape(const Config& c, const LayerConfig& l) { return {c.hidden, l.heads * l.head_dim}; }
Shape mlp_shape(const Config& c, const LayerConfig& l) { return {l.mlp_width, c.hidden}; }
Shape mlp_output_shape(const Config& c, const LayerConfig& l) { return {c.hidden, l.mlp_width}; }

constexpr LayerTensorRule kLayer[] = {
    {"input_layernorm.weight", Part::InputNorm, false, InputSite::Attention, vector_shape},
    {"self_attn.q_proj.weight", Part::Attention, true, InputSite::Attention, query_shape},
    {"self_attn.k_proj.weight", Part::Attention, true, InputSite::Attention, key_value_shape},
    {"self_attn.v_proj.weight", Part::Attention, true, InputSite::Attention, key_value_shape},
    {"self_attn.o_proj.weight", Part::Attention, true, InputSite::AttentionOutput, attention_output_shape},
    {"post_attention_layernorm.weight", Part::PostAttentionNorm, false, InputSite::Mlp, vector_shape},
    {"mlp.gate_proj.weight", Part::Mlp, true, InputSite::Mlp, mlp_shape},
    {"mlp.up_proj.weight", Part::Mlp, true, InputSite::Mlp, mlp_shape},
    {"mlp.down_proj.weight", Part::Mlp, true, InputSite::MlpOutput, mlp_output_shape},
};

// Computed from the config in every newer implementation; files of older ones carry it.
constexpr std::string_view kIgnored[] = {"rotary_emb.inv_freq"};

}  // namespace

const Architecture kLlama{"llama", kModelTypes, "model.layers.", kGlobals, kLayer, kIgnored};

}  // namespace miq
