// Small configurations of sliced models: odd widths that change from layer to layer.
#pragma once

#include "miq/model/config.h"

namespace miq::test {

// `head` columns of the head: `hidden` (40) for an unsliced one.
inline Config sliced_config(const std::string& architecture, std::int64_t head = 40) {
  const bool opt = architecture == "opt";
  Config config;
  config.architecture = architecture;
  config.vocabulary = 53;
  config.hidden = 40;
  config.max_positions = 64;
  config.norm = NormKind::FusedRms;
  config.norm_epsilon = 1e-5;
  config.sliced = true;
  LayerConfig layer{4, opt ? 4 : 2, 10, 44};
  layer.input = 29;
  layer.middle = 31;
  layer.output = 27;
  config.layers.push_back(layer);
  layer.input = 27;
  layer.middle = 29;
  layer.output = head;
  config.layers.push_back(layer);
  if (opt) {
    config.activation = Activation::Relu;
    config.gated_mlp = false;
    config.query_bias = config.output_bias = config.mlp_bias = config.head_bias = true;
    config.positions = Positions::Learned;
    config.position_offset = 2;
  }
  return config;
}

// config.json of the model before it was sliced.
inline Json base_config_json(const Config& config) {
  const LayerConfig& layer = config.layers.front();
  Json json{{"model_type", config.architecture},  {"vocab_size", config.vocabulary},
            {"hidden_size", config.hidden},       {"num_hidden_layers", config.layers.size()},
            {"num_attention_heads", layer.heads}, {"max_position_embeddings", config.max_positions},
            {"tie_word_embeddings", true}};
  if (config.architecture == "opt") {
    json.update({{"ffn_dim", layer.mlp_width},
                 {"word_embed_proj_dim", config.hidden},
                 {"do_layer_norm_before", true},
                 {"activation_function", "relu"}});
  } else {
    json.update(
        {{"intermediate_size", layer.mlp_width}, {"num_key_value_heads", layer.kv_heads}, {"rms_norm_eps", 1e-6}, {"hidden_act", "silu"}});
  }
  return json;
}

}  // namespace miq::test
