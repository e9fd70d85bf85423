// A small configuration of every family that the decoder knows, of odd sizes.
#pragma once

#include <map>
#include <string>

#include "tests/model/small_model.h"

namespace miq::test {

inline Config family(const char* architecture) {
  Config config = odd_config();
  config.architecture = architecture;
  return config;
}

inline Config opt_config() {
  Config config = family("opt");
  config.norm = NormKind::Layer;
  config.activation = Activation::Relu;
  config.gated_mlp = false;
  config.query_bias = config.output_bias = config.mlp_bias = true;
  config.positions = Positions::Learned;
  config.position_offset = 2;
  config.max_positions = 200;
  config.tied_head = true;
  config.layers = {{6, 6, 5, 53}, {3, 3, 6, 29}};
  return config;
}

inline std::map<std::string, Config> families() {
  std::map<std::string, Config> all;
  Config config = family("llama");
  config.query_bias = config.output_bias = config.mlp_bias = true;
  config.layers[1] = {};
  config.layers[1].identity = true;
  all["llama with biases and a deleted layer"] = config;
  config = family("llama");
  config.rope_scaling = {RopeScaling::Kind::Yarn, 4, 1, 4, 32, 1.14, 32, 1, true};
  config.layers[0] = {2, 1, 32, 20};
  all["llama with yarn"] = config;
  config.rope_scaling = {RopeScaling::Kind::Dynamic, 2, 1, 4, 32};
  all["llama with dynamic scaling"] = config;
  config = family("mistral");
  for (LayerConfig& layer : config.layers) layer.window = 5;
  all["mistral"] = config;
  config = family("mixtral");
  config.experts_per_token = 2;
  for (LayerConfig& layer : config.layers) layer.experts = 5, layer.mlp_width = 22;
  all["mixtral"] = config;
  config = family("qwen");
  config.rope_scaling = {RopeScaling::Kind::QwenDynamic, 1, 1, 4, 40};
  config.log_scaled_from = 40;
  config.layers = {{6, 6, 10, 53}, {3, 3, 6, 29}};
  all["qwen"] = config;
  config = family("qwen2");
  config.query_bias = true;
  config.layers[2].window = 9;
  all["qwen2"] = config;
  config = family("qwen3");
  config.query_key_norm = true;
  config.tied_head = true;
  all["qwen3"] = config;
  config = family("qwen2_moe");
  config.query_bias = true;
  config.experts_per_token = 3;
  config.normalise_experts = false;
  for (const int layer : {1, 2}) config.layers[layer].experts = 4, config.layers[layer].shared_width = 31;
  all["qwen2_moe"] = config;
  config = family("qwen3_moe");
  config.query_key_norm = true;
  config.experts_per_token = 2;
  for (const int layer : {0, 2}) config.layers[layer].experts = 7;
  all["qwen3_moe"] = config;
  all["opt"] = opt_config();
  config = opt_config();
  config.norm_first = config.final_norm = false;
  config.embedding = 20;
  config.activation = Activation::Gelu;
  all["opt with norms after the blocks, and projections"] = config;
  config = family("llama");
  config.norm = NormKind::FusedRms;
  config.sliced = true;
  for (std::size_t i = 0; i < 3; ++i) {
    LayerConfig& layer = config.layers[i];
    layer.input = i == 0 ? 37 : 30, layer.middle = 31 - static_cast<std::int64_t>(i), layer.output = i == 2 ? 35 : 30;
  }
  all["llama, sliced"] = config;
  return all;
}

}  // namespace miq::test
