// Refusals of configurations that tests/hard/refusals.py found without a test: each message by what only it says.
#include <gtest/gtest.h>

#include <string>

#include "miq/base/error.h"
#include "miq/model/config.h"

namespace miq {
namespace {

Json base(const std::string& type) {
  Json json{{"model_type", type}, {"vocab_size", 64}, {"hidden_size", 32}, {"intermediate_size", 48}, {"num_hidden_layers", 2}, {"num_attention_heads", 4},
            {"num_key_value_heads", 2}, {"rms_norm_eps", 1e-5}, {"max_position_embeddings", 128}, {"hidden_act", "silu"}};
  if (type == "qwen") {
    json.erase("num_key_value_heads");
    json.update({{"layer_norm_epsilon", 1e-5}, {"kv_channels", 8}, {"seq_length", 128}, {"no_bias", true}, {"rotary_pct", 1.0}, {"rotary_emb_base", 10000}});
  }
  if (type == "qwen2_moe") {
    json.update({{"num_experts", 4}, {"num_experts_per_tok", 2}, {"moe_intermediate_size", 24}, {"shared_expert_intermediate_size", 24}, {"decoder_sparse_step", 1},
                 {"norm_topk_prob", true}});
  }
  return json;
}

std::string refusal(const Json& json) {
  try {
    config_from_hugging_face(json, "config.json");
    return "";
  } catch (const FormatError& error) {
    return error.what();
  }
}

void expect_refused(const std::string& type, const Json& patch, const std::string& key, const std::string& says) {
  Json json = base(type);
  ASSERT_EQ(refusal(json), "") << type;
  json.merge_patch(patch);
  const std::string message = refusal(json);
  EXPECT_NE(message.find(key), std::string::npos) << message;
  EXPECT_NE(message.find(says), std::string::npos) << message;
}

TEST(ConfigRefusals, KeysThatChangeTheMathematics) {
  expect_refused("llama", {{"rope_interleaved", true}}, "rope_interleaved", "interleaved");
  expect_refused("llama", {{"rope_interleaved", {{"rope_type", "yarn"}}}}, "rope_interleaved", "true or false");
  expect_refused("qwen", {{"scale_attn_weights", false}}, "scale_attn_weights", "true");
  expect_refused("qwen", {{"apply_residual_connection_post_layernorm", true}}, "apply_residual_connection_post_layernorm", "false");
}

TEST(ConfigRefusals, ValuesThatMakeNoSense) {
  expect_refused("qwen", {{"kv_channels", nullptr}, {"num_attention_heads", 5}}, "num_attention_heads", "a divisor of hidden_size");
  expect_refused("llama", {{"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 4.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 64}}}},
                 "high_freq_factor", "more than low_freq_factor");
  expect_refused("qwen2", {{"layer_types", {"full_attention"}}}, "layer_types", "one entry for each of num_hidden_layers layers");
  expect_refused("qwen2", {{"layer_types", {"full_attention", "linear_attention"}}}, "layer_types", "full_attention or sliding_attention");
  expect_refused("qwen2_moe", {{"mlp_only_layers", {0, "1"}}}, "mlp_only_layers", "");
  expect_refused("llama", {{"hidden_size", std::uint64_t{1} << 40}}, "hidden_size", "at most 2^32");
  expect_refused("llama", {{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 10000.0}, {"partial_rotary_factor", 0.5}}}}, "partial_rotary_factor", "heads rotated in part");
  expect_refused("llama", {{"eos_token_id", "2"}}, "eos_token_id", "an integer up to 2^32");
  expect_refused("llama", {{"eos_token_id", {std::uint64_t{1} << 40, 2}}}, "eos_token_id", "an integer up to 2^32");
  expect_refused("llama", {{"model_type", 5}}, "model_type", "a string");
  expect_refused("llama", {{"hidden_act", 5}}, "hidden_act", "a string");
  EXPECT_NE(refusal(Json::array()).find("expected a JSON object"), std::string::npos);
}

TEST(ConfigRefusals, OurOwnForm) {
  const Json good = config_from_hugging_face(base("llama"), "config.json").to_json();
  for (const Json& layers : {Json(), Json::array(), Json("two"), Json::object()}) {
    Json bad = good;
    bad["layers"] = layers;
    try {
      Config::from_json(bad, "manifest");
      FAIL() << "accepted: " << layers;
    } catch (const FormatError& error) {
      EXPECT_NE(std::string(error.what()).find("layers"), std::string::npos) << error.what();
      if (!layers.is_null()) {
        EXPECT_NE(std::string(error.what()).find("a list of layers"), std::string::npos) << error.what();
      }
    }
  }
  // As damage of this file, not as a fault of who asked.
  Json unknown = good;
  unknown["architecture"] = "none";
  try {
    Config::from_json(unknown, "manifest");
    FAIL() << "accepted";
  } catch (const FormatError& error) {
    EXPECT_NE(std::string(error.what()).find("manifest: architecture 'none' is not supported"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace miq
