// The keys are those that each architecture's reader in model/ understands; what was written is read back and
// must give the same configuration, so that a family or a feature this table does not know is refused, never
// described wrongly. Facts: transformers models/*/configuration_*.py.
#include <map>

#include "miq/base/error.h"
#include "miq/converters/hugging_face_writer.h"
#include "miq/model/architecture.h"

namespace miq {
namespace {

struct Family {
  const char* model_class;
  void (*add)(const Config& config, const LayerConfig& layer, Json& json);
};

void add_rotary(const Config& config, const LayerConfig& layer, Json& json) {
  json.update({{"intermediate_size", layer.mlp_width},
               {"num_key_value_heads", layer.kv_heads},
               {"head_dim", layer.head_dim},
               {"rms_norm_eps", config.norm_epsilon},
               {"hidden_act", "silu"},
               {"rope_theta", config.rope_theta}});
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.kind == RopeScaling::Kind::Linear) json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", scaling.factor}};
  if (scaling.kind == RopeScaling::Kind::Llama3) {
    json["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", scaling.factor},
                            {"low_freq_factor", scaling.low_frequency_factor},
                            {"high_freq_factor", scaling.high_frequency_factor},
                            {"original_max_position_embeddings", scaling.original_max_positions}};
  }
}

void add_llama(const Config& config, const LayerConfig& layer, Json& json) {
  add_rotary(config, layer, json);
  json.update({{"attention_bias", config.query_bias}, {"mlp_bias", config.mlp_bias}});
}

void add_mistral(const Config& config, const LayerConfig& layer, Json& json) {
  add_rotary(config, layer, json);
  json["sliding_window"] = layer.window > 0 ? Json(layer.window) : Json();
}

void add_mixtral(const Config& config, const LayerConfig& layer, Json& json) {
  add_mistral(config, layer, json);
  json.update({{"num_local_experts", layer.experts}, {"num_experts_per_tok", config.experts_per_token}});
}

void add_experts(const Config& config, const LayerConfig& layer, Json& json) {
  add_rotary(config, layer, json);
  json.update({{"moe_intermediate_size", layer.mlp_width},
               {"num_experts", layer.experts},
               {"num_experts_per_tok", config.experts_per_token},
               {"norm_topk_prob", config.normalise_experts}});
  if (layer.shared_width > 0) json["shared_expert_intermediate_size"] = layer.shared_width;
}

void add_opt(const Config& config, const LayerConfig& layer, Json& json) {
  json.update({{"ffn_dim", layer.mlp_width},
               {"activation_function", "relu"},
               {"do_layer_norm_before", config.norm_first},
               {"_remove_final_layer_norm", config.norm_first && !config.final_norm},
               {"enable_bias", config.query_bias},
               {"word_embed_proj_dim", config.embedding > 0 ? config.embedding : config.hidden}});
}

const std::map<std::string_view, Family>& families() {
  static const std::map<std::string_view, Family> table{{"llama", {"LlamaForCausalLM", add_llama}},
                                                        {"mistral", {"MistralForCausalLM", add_mistral}},
                                                        {"mixtral", {"MixtralForCausalLM", add_mixtral}},
                                                        {"qwen2", {"Qwen2ForCausalLM", add_rotary}},
                                                        {"qwen3", {"Qwen3ForCausalLM", add_rotary}},
                                                        {"qwen2_moe", {"Qwen2MoeForCausalLM", add_experts}},
                                                        {"qwen3_moe", {"Qwen3MoeForCausalLM", add_experts}},
                                                        {"opt", {"OPTForCausalLM", add_opt}}};
  return table;
}

}  // namespace

Json hugging_face_config(const Config& config) {
  static constexpr const char* kKeep = ". Keep the model as a .miq container";
  const LayerConfig& layer = config.layers.front();
  if (config.sliced) throw Error("a sliced model has matrices that no config.json can describe" + std::string(kKeep));
  for (std::size_t i = 1; i < config.layers.size(); ++i) {
    if (config.layers[i] == layer) continue;
    throw Error("layer " + std::to_string(i) + " differs in size from layer 0, which no config.json can say: transformers would not load such a folder" + kKeep);
  }
  const auto family = families().find(config.architecture);
  if (family == families().end()) throw Error("no config.json can be generated for architecture '" + config.architecture + "'" + kKeep);
  Json json{{"model_type", config.architecture},
            {"architectures", Json::array({family->second.model_class})},
            {"vocab_size", config.vocabulary},
            {"hidden_size", config.hidden},
            {"num_hidden_layers", config.layers.size()},
            {"num_attention_heads", layer.heads},
            {"max_position_embeddings", config.max_positions},
            {"tie_word_embeddings", config.tied_head}};
  family->second.add(config, layer, json);
  if (config.bos_id) json["bos_token_id"] = *config.bos_id;
  if (config.eos_id) json["eos_token_id"] = *config.eos_id;
  if (config_from_hugging_face(json, "the generated config.json").to_json() != config.to_json()) {
    throw Error("no config.json can be generated for this " + config.architecture + " model: it would not describe all of it" + std::string(kKeep));
  }
  return json;
}

}  // namespace miq
