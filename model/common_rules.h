// What the rows of Llama and its kin share: shapes, rules with Hugging Face's names, and the reading of
// their windows. A row joins the groups that it needs (architecture_mixtral.cc is a short example).
#pragma once

#include <array>

#include "miq/model/architecture.h"
#include "miq/model/config_fields.h"

namespace miq::rules {

template <std::size_t... N>
constexpr std::array<LayerTensorRule, (N + ...)> join(const std::array<LayerTensorRule, N>&... groups) {
  std::array<LayerTensorRule, (N + ...)> all{};
  std::size_t at = 0;
  const auto add = [&](const auto& group) {
    for (const LayerTensorRule& rule : group) all[at++] = rule;
  };
  (add(groups), ...);
  return all;
}

inline bool has_norm_weights(const Config& c) { return c.norm != NormKind::FusedRms; }
inline bool layer_norm_weights(const Config& c, const LayerConfig&) { return has_norm_weights(c); }
inline bool sliced(const Config& c, const LayerConfig&) { return c.sliced; }
inline bool query_bias(const Config& c, const LayerConfig&) { return c.query_bias; }
inline bool output_bias(const Config& c, const LayerConfig&) { return c.output_bias; }
inline bool mlp_bias(const Config& c, const LayerConfig& l) { return c.mlp_bias && l.experts == 0; }
inline bool query_key_norm(const Config& c, const LayerConfig&) { return c.query_key_norm; }
inline bool plain_mlp(const Config&, const LayerConfig& l) { return l.experts == 0; }
inline bool experts(const Config&, const LayerConfig& l) { return l.experts > 0; }
inline bool shared_expert(const Config&, const LayerConfig& l) { return l.shared_width > 0; }

// Matrices are [out, in].
inline Shape vector_shape(const Config& c, const LayerConfig&) { return {c.hidden}; }
inline Shape query_shape(const Config& c, const LayerConfig& l) { return {l.heads * l.head_dim, input_width(c, l)}; }
inline Shape key_value_shape(const Config& c, const LayerConfig& l) { return {l.kv_heads * l.head_dim, input_width(c, l)}; }
inline Shape query_bias_shape(const Config&, const LayerConfig& l) { return {l.heads * l.head_dim}; }
inline Shape key_value_bias_shape(const Config&, const LayerConfig& l) { return {l.kv_heads * l.head_dim}; }
inline Shape head_norm_shape(const Config&, const LayerConfig& l) { return {l.head_dim}; }
inline Shape attention_output_shape(const Config& c, const LayerConfig& l) { return {middle_width(c, l), l.heads * l.head_dim}; }
inline Shape attention_output_bias_shape(const Config& c, const LayerConfig& l) { return {middle_width(c, l)}; }
inline Shape attention_rotation_shape(const Config& c, const LayerConfig& l) { return {input_width(c, l), middle_width(c, l)}; }
inline Shape mlp_shape(const Config& c, const LayerConfig& l) { return {l.mlp_width, middle_width(c, l)}; }
inline Shape mlp_bias_shape(const Config&, const LayerConfig& l) { return {l.mlp_width}; }
inline Shape mlp_output_shape(const Config& c, const LayerConfig& l) { return {output_width(c, l), l.mlp_width}; }
inline Shape mlp_output_bias_shape(const Config& c, const LayerConfig& l) { return {output_width(c, l)}; }
inline Shape mlp_rotation_shape(const Config& c, const LayerConfig& l) { return {middle_width(c, l), output_width(c, l)}; }
inline Shape router_shape(const Config& c, const LayerConfig& l) { return {l.experts, c.hidden}; }
inline Shape shared_shape(const Config& c, const LayerConfig& l) { return {l.shared_width, c.hidden}; }
inline Shape shared_output_shape(const Config& c, const LayerConfig& l) { return {c.hidden, l.shared_width}; }
inline Shape shared_router_shape(const Config& c, const LayerConfig&) { return {1, c.hidden}; }

// Llama's names, which its kin keep; every tensor that one of them has beyond Llama is optional.
inline constexpr std::array<GlobalTensorRule, 3> kGlobals{{
    {"model.embed_tokens.weight", Role::Embedding, false, Part::Embedding, [](const Config& c) { return Shape{c.vocabulary, embedding_width(c)}; }},
    {"model.norm.weight", Role::FinalNorm, false, Part::FinalNorm, [](const Config& c) { return Shape{c.hidden}; }, has_norm_weights},
    {"lm_head.weight", Role::Head, false, Part::Head, [](const Config& c) { return Shape{c.vocabulary, head_width(c)}; }},
}};

inline constexpr std::array<LayerTensorRule, 13> kAttention{{
    {"input_layernorm.weight", Role::InputNorm, false, Part::InputNorm, false, InputSite::Attention, vector_shape, layer_norm_weights},
    {"self_attn.q_proj.weight", Role::Query, false, Part::Attention, true, InputSite::Attention, query_shape},
    {"self_attn.q_proj.bias", Role::Query, true, Part::Attention, false, InputSite::Attention, query_bias_shape, query_bias},
    {"self_attn.k_proj.weight", Role::Key, false, Part::Attention, true, InputSite::Attention, key_value_shape},
    {"self_attn.k_proj.bias", Role::Key, true, Part::Attention, false, InputSite::Attention, key_value_bias_shape, query_bias},
    {"self_attn.v_proj.weight", Role::Value, false, Part::Attention, true, InputSite::Attention, key_value_shape},
    {"self_attn.v_proj.bias", Role::Value, true, Part::Attention, false, InputSite::Attention, key_value_bias_shape, query_bias},
    {"self_attn.q_norm.weight", Role::QueryNorm, false, Part::QueryKeyNorm, false, InputSite::Attention, head_norm_shape, query_key_norm},
    {"self_attn.k_norm.weight", Role::KeyNorm, false, Part::QueryKeyNorm, false, InputSite::Attention, head_norm_shape, query_key_norm},
    {"self_attn.o_proj.weight", Role::AttentionOutput, false, Part::Attention, true, InputSite::AttentionOutput, attention_output_shape},
    {"self_attn.o_proj.bias", Role::AttentionOutput, true, Part::Attention, false, InputSite::AttentionOutput, attention_output_bias_shape, output_bias},
    {"attn_shortcut_Q", Role::AttentionRotation, false, Part::Rotation, false, InputSite::Attention, attention_rotation_shape, sliced},
    {"post_attention_layernorm.weight", Role::MlpNorm, false, Part::PostAttentionNorm, false, InputSite::Mlp, vector_shape, layer_norm_weights},
}};

inline constexpr std::array<LayerTensorRule, 7> kMlp{{
    {"mlp.gate_proj.weight", Role::Gate, false, Part::Mlp, true, InputSite::Mlp, mlp_shape, plain_mlp},
    {"mlp.gate_proj.bias", Role::Gate, true, Part::Mlp, false, InputSite::Mlp, mlp_bias_shape, mlp_bias},
    {"mlp.up_proj.weight", Role::Up, false, Part::Mlp, true, InputSite::Mlp, mlp_shape, plain_mlp},
    {"mlp.up_proj.bias", Role::Up, true, Part::Mlp, false, InputSite::Mlp, mlp_bias_shape, mlp_bias},
    {"mlp.down_proj.weight", Role::Down, false, Part::Mlp, true, InputSite::MlpOutput, mlp_output_shape, plain_mlp},
    {"mlp.down_proj.bias", Role::Down, true, Part::Mlp, false, InputSite::MlpOutput, mlp_output_bias_shape, mlp_bias},
    {"mlp_shortcut_Q", Role::MlpRotation, false, Part::Rotation, false, InputSite::Mlp, mlp_rotation_shape, sliced},
}};

// Qwen's mixtures. The routers are small and decide much: they are no linears to compress.
inline constexpr std::array<LayerTensorRule, 4> kExperts{{
    {"mlp.gate.weight", Role::Router, false, Part::Router, false, InputSite::Mlp, router_shape, experts},
    {"mlp.experts.{}.gate_proj.weight", Role::ExpertGate, false, Part::Mlp, true, InputSite::Mlp, mlp_shape, experts},
    {"mlp.experts.{}.up_proj.weight", Role::ExpertUp, false, Part::Mlp, true, InputSite::Mlp, mlp_shape, experts},
    {"mlp.experts.{}.down_proj.weight", Role::ExpertDown, false, Part::Mlp, true, InputSite::MlpOutput, mlp_output_shape, experts},
}};
inline constexpr std::array<LayerTensorRule, 4> kSharedExpert{{
    {"mlp.shared_expert_gate.weight", Role::SharedRouter, false, Part::Router, false, InputSite::Mlp, shared_router_shape, shared_expert},
    {"mlp.shared_expert.gate_proj.weight", Role::SharedGate, false, Part::Mlp, true, InputSite::Mlp, shared_shape, shared_expert},
    {"mlp.shared_expert.up_proj.weight", Role::SharedUp, false, Part::Mlp, true, InputSite::Mlp, shared_shape, shared_expert},
    {"mlp.shared_expert.down_proj.weight", Role::SharedDown, false, Part::Mlp, true, InputSite::MlpOutput, shared_output_shape, shared_expert},
}};

// Computed from the config in every newer implementation; files of older ones carry it.
inline constexpr std::string_view kIgnored[] = {"rotary_emb.inv_freq"};

}  // namespace miq::rules
