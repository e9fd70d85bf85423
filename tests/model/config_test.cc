#include "miq/model/config.h"

#include <gtest/gtest.h>

#include <set>

#include "miq/base/error.h"
#include "miq/model/architecture.h"

namespace miq {
namespace {

Json llama_json() {
  return {{"model_type", "llama"},        {"vocab_size", 2048},       {"hidden_size", 128},         {"intermediate_size", 384},
          {"num_hidden_layers", 2},       {"num_attention_heads", 8}, {"num_key_value_heads", 4},   {"max_position_embeddings", 512},
          {"rms_norm_eps", 1e-6},         {"hidden_act", "silu"},     {"tie_word_embeddings", true}, {"bos_token_id", 1},
          {"rope_scaling", nullptr},      {"rope_theta", 20000.0},    {"torch_dtype", "float32"}};
}

// The message of the error that reading `json` throws, or "" when it is accepted.
std::string refusal(const Json& json) {
  try {
    config_from_hugging_face(json, "config.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Config, ReadsALlamaConfig) {
  const Config config = config_from_hugging_face(llama_json(), "config.json");
  EXPECT_EQ(config.architecture, "llama");
  EXPECT_EQ(config.layers.size(), 2u);
  EXPECT_EQ(config.layers[1], (LayerConfig{8, 4, 16, 384}));
  EXPECT_EQ(config.rope_theta, 20000.0);
  EXPECT_EQ(config.norm_epsilon, 1e-6);
  EXPECT_TRUE(config.tied_head);
  EXPECT_EQ(config.bos_id, 1);
  EXPECT_EQ(config.eos_id, std::nullopt);
}

TEST(Config, NormalisedFormRoundTrips) {
  Json json = llama_json();
  json["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 256}};
  Config config = config_from_hugging_face(json, "config.json");
  config.layers[1] = {6, 3, 16, 288};  // sizes are per layer
  const Json once = config.to_json();
  const Config back = Config::from_json(once, "manifest");
  EXPECT_EQ(back.to_json(), once);
  EXPECT_EQ(back.layers, config.layers);
  EXPECT_EQ(back.rope_scaling.kind, RopeScaling::Kind::Llama3);
  EXPECT_EQ(back.rope_scaling.original_max_positions, 256);
}

TEST(Config, ReadsTheRopeParametersOfNewerFiles) {
  Json json = llama_json();
  json.erase("rope_theta");
  json["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 5e5}};
  const Config config = config_from_hugging_face(json, "config.json");
  EXPECT_EQ(config.rope_theta, 5e5);
  EXPECT_EQ(config.rope_scaling.kind, RopeScaling::Kind::Linear);
  EXPECT_EQ(config.rope_scaling.factor, 2.0);
}

TEST(Config, RefusalsNameTheKeyAndTheValue) {
  const std::vector<std::pair<Json, std::string>> cases{
      {{{"model_type", "bloom"}}, "'bloom' is not supported (ALiBi positions"},
      {{{"model_type", "bloom"}}, "supported: llama"},
      {{{"model_type", "gemma"}}, "under Llama's names"},
      {{{"model_type", "nobodys"}, {"rms_norm_eps", nullptr}}, "'nobodys' is not known, and its config does not read as llama's"},
      {{{"hidden_size", -1}}, "'hidden_size' is -1"},
      {{{"hidden_size", 18446744073709551615u}}, "'hidden_size'"},
      {{{"hidden_size", "128"}}, "expected an integer"},
      {{{"num_key_value_heads", 3}}, "no multiple of 3"},
      {{{"num_attention_heads", 7}}, "no multiple of num_attention_heads 7"},
      {{{"head_dim", 15}}, "odd"},
      {{{"rms_norm_eps", 0}}, "'rms_norm_eps' is 0"},
      {{{"hidden_act", "gelu"}}, "activation 'gelu'"},
      {{{"attention_bias", 1}}, "'attention_bias' is 1, expected true or false"},
      {{{"rope_scaling", {{"type", "longrope"}, {"factor", 2.0}}}}, "'longrope' is not supported"},
      {{{"rope_scaling", {{"type", "yarn"}, {"factor", 2.0}, {"surprise", 1}}}}, "'surprise'"},
      {{{"layer_types", {"full_attention", "sliding_attention"}}}, "no sliding_window"},
      {{{"sliding_window", 4096}}, "'sliding_window' is set to 4096"},
      {{{"partial_rotary_factor", 0.5}}, "'partial_rotary_factor'"},
      {{{"final_logit_softcapping", 30.0}}, "'final_logit_softcapping'"},
      {{{"quantization_config", {{"quant_method", "gptq"}}}}, "quantized by another tool"},
      {{{"num_hidden_layers", 1000000}}, "'num_hidden_layers'"}};
  ASSERT_EQ(refusal(llama_json()), "");
  for (const auto& [change, expected] : cases) {
    Json json = llama_json();
    json.update(change);
    EXPECT_NE(refusal(json).find(expected), std::string::npos) << change << "\n" << refusal(json);
  }
}

TEST(Config, UnknownKeysWithoutEffectAreAccepted) {
  Json json = llama_json();
  json.update({{"sliding_window", nullptr}, {"use_cache", true}, {"my_note", "x"}, {"rope_interleaved", false}});
  EXPECT_EQ(refusal(json), "");
}

TEST(Architecture, ListsEveryTensorOnce) {
  Config config = config_from_hugging_face(llama_json(), "config.json");
  EXPECT_EQ(expected_tensors(config).size(), 2u + 2 * 9);
  config.tied_head = false;
  const auto tensors = expected_tensors(config);
  EXPECT_EQ(tensors.size(), 3u + 2 * 9);
  std::set<std::string> names;
  for (const auto& tensor : tensors) names.insert(tensor.name);
  EXPECT_EQ(names.size(), tensors.size());
  EXPECT_TRUE(names.contains("model.layers.1.self_attn.k_proj.weight"));
}

TEST(Architecture, UnknownNamesAreRefusedWithTheKnownOnes) {
  try {
    architecture("gpt2");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("supported: llama"), std::string::npos);
  }
}

TEST(Architecture, ShortNames) {
  EXPECT_EQ(short_linear_name("self_attn.q_proj.weight"), "q_proj");
  EXPECT_EQ(short_linear_name("model.layers.3.mlp.down_proj.weight"), "down_proj");
}

}  // namespace
}  // namespace miq
