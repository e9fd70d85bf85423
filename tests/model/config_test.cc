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

Json family_json(const char* type, const Json& more) {
  Json json = llama_json();
  json["model_type"] = type;
  json.update(more);
  return json;
}

TEST(Config, WindowsStandWhereEachFamilyHasThem) {
  const auto windows = [](const char* type, const Json& more) {
    std::vector<std::int64_t> found;
    Json json = family_json(type, more);
    json["num_hidden_layers"] = 4;
    for (const LayerConfig& layer : config_from_hugging_face(json, "config.json").layers) found.push_back(layer.window);
    return found;
  };
  using Windows = std::vector<std::int64_t>;
  EXPECT_EQ(windows("mistral", {{"sliding_window", 9}}), (Windows{9, 9, 9, 9}));
  EXPECT_EQ(windows("mistral", {{"sliding_window", nullptr}}), (Windows{0, 0, 0, 0}));
  EXPECT_EQ(windows("mistral", Json::object()), (Windows{4096, 4096, 4096, 4096}));
  EXPECT_EQ(windows("qwen2", {{"sliding_window", 9}, {"use_sliding_window", false}, {"max_window_layers", 2}}), (Windows{0, 0, 0, 0}));
  EXPECT_EQ(windows("qwen2", {{"sliding_window", 9}, {"use_sliding_window", true}, {"max_window_layers", 3}}), (Windows{0, 0, 0, 9}));
  const Json types{"sliding_attention", "full_attention", "full_attention", "sliding_attention"};
  EXPECT_EQ(windows("qwen3", {{"head_dim", 16}, {"sliding_window", 7}, {"use_sliding_window", true}, {"layer_types", types}}), (Windows{7, 0, 0, 7}));
}

TEST(Config, ExpertsStandWhereTheStepAndTheListPutThem) {
  const Json json = family_json("qwen2_moe", {{"num_hidden_layers", 6}, {"num_experts", 5}, {"num_experts_per_tok", 2}, {"decoder_sparse_step", 2},
                                              {"mlp_only_layers", {3}}, {"moe_intermediate_size", 22}, {"shared_expert_intermediate_size", 30}});
  const Config config = config_from_hugging_face(json, "config.json");
  for (std::size_t i = 0; i < 6; ++i) {
    const bool sparse = i == 1 || i == 5;
    EXPECT_EQ(config.layers[i].experts, sparse ? 5 : 0) << i;
    EXPECT_EQ(config.layers[i].shared_width, sparse ? 30 : 0) << i;
    EXPECT_EQ(config.layers[i].mlp_width, sparse ? 22 : json["intermediate_size"].get<std::int64_t>()) << i;
  }
  EXPECT_FALSE(config.normalise_experts);
  EXPECT_TRUE(config.query_bias);
}

TEST(Config, FamiliesRefuseWhatTheyCannotMean) {
  const Json experts{{"num_local_experts", 4}, {"num_experts_per_tok", 2}};
  const auto with = [&](Json more) {
    Json all = experts;
    all.update(more);
    return all;
  };
  const std::vector<std::pair<Json, std::string>> cases{
      {family_json("mixtral", with({{"num_experts_per_tok", 5}})), "5 experts per token of 4"},
      {family_json("mixtral", with({{"num_local_experts", 4000000000u}})), "more than 200000 experts"},
      {family_json("mixtral", with({{"num_local_experts", 0}})), "'num_local_experts' is 0"},
      {family_json("qwen3", {{"head_dim", nullptr}}), "'head_dim' is missing"},
      {family_json("qwen2", {{"use_sliding_window", "yes"}}), "'use_sliding_window' is \"yes\""},
      {family_json("qwen2", {{"layer_types", {"full_attention"}}}), "'layer_types'"},
      {family_json("qwen2", {{"rope_scaling", {{"type", "mrope"}, {"mrope_section", {16, 24, 24}}}}}), "'mrope_section'"},
      {family_json("qwen2", {{"rope_parameters", {{"full_attention", {{"rope_theta", 1e4}}}}}}), "'full_attention'"},
      {family_json("qwen", {{"layer_norm_epsilon", 1e-6}, {"rotary_pct", 0.5}}), "'rotary_pct'"},
      {family_json("qwen", {{"layer_norm_epsilon", 1e-6}, {"intermediate_size", 7}}), "'intermediate_size'"}};
  for (const auto& [json, expected] : cases) EXPECT_NE(refusal(json).find(expected), std::string::npos) << expected << "\n" << refusal(json);
}

TEST(Config, AModelTypeOfNobodysIsReadAsLlamaWithAWarning) {
  std::vector<std::string> warnings;
  const Config config = config_from_hugging_face(family_json("nobodys", Json::object()), "config.json", &warnings);
  EXPECT_EQ(config.architecture, "llama");
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("'nobodys' is not known"), std::string::npos);
  warnings.clear();
  config_from_hugging_face(llama_json(), "config.json", &warnings);
  EXPECT_TRUE(warnings.empty());
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
  EXPECT_EQ(short_linear_name("mlp.experts.3.gate_proj.weight"), "experts.3.gate_proj");
  EXPECT_EQ(short_linear_name("mlp.shared_expert.gate_proj.weight"), "shared_expert.gate_proj");
  EXPECT_EQ(short_linear_name("model.layers.3.mlp.down_proj.weight"), "down_proj");
}

}  // namespace
}  // namespace miq
