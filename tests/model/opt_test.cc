// What an OPT's config.json means. Its forward pass is compared with transformers in tests/python.
#include <gtest/gtest.h>

#include <algorithm>

#include "miq/base/error.h"
#include "miq/model/architecture.h"

namespace miq {
namespace {

Json opt_json() {
  return {{"model_type", "opt"},
          {"vocab_size", 50272},
          {"hidden_size", 768},
          {"ffn_dim", 3072},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 12},
          {"max_position_embeddings", 2048},
          {"word_embed_proj_dim", 768},
          {"do_layer_norm_before", true},
          {"activation_function", "relu"},
          {"_remove_final_layer_norm", false},
          {"bos_token_id", 2}};
}

Config read(const Json& json) { return config_from_hugging_face(json, "config.json"); }

std::string refusal(const Json& json) {
  try {
    read(json);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

const ExpectedTensor* find(const std::vector<ExpectedTensor>& tensors, const std::string& name) {
  const auto found = std::ranges::find(tensors, name, &ExpectedTensor::name);
  return found == tensors.end() ? nullptr : &*found;
}

TEST(Opt, ReadsTheConfigOfThe125M) {
  const Config config = read(opt_json());
  EXPECT_EQ(config.architecture, "opt");
  EXPECT_EQ(config.layers.at(1), (LayerConfig{12, 12, 64, 3072}));
  EXPECT_EQ(config.norm, NormKind::Layer);
  EXPECT_EQ(config.norm_epsilon, 1e-5);
  EXPECT_EQ(config.activation, Activation::Relu);
  EXPECT_EQ(config.positions, Positions::Learned);
  EXPECT_EQ(config.position_offset, 2);
  EXPECT_TRUE(config.tied_head) << "as transformers has it where the file is silent";
  EXPECT_TRUE(config.norm_first && config.final_norm && !config.gated_mlp && config.query_bias && config.output_bias && config.mlp_bias &&
              !config.head_bias);
  EXPECT_EQ(Config::from_json(config.to_json(), "manifest").to_json(), config.to_json());

  const auto tensors = expected_tensors(config);
  EXPECT_EQ(tensors.size(), 4u + 2 * 16);
  EXPECT_EQ(find(tensors, "model.decoder.embed_positions.weight")->shape, (Shape{2050, 768}));
  EXPECT_EQ(find(tensors, "model.decoder.layers.1.fc2.weight")->shape, (Shape{768, 3072}));
  EXPECT_EQ(find(tensors, "model.decoder.layers.1.fc1.bias")->shape, (Shape{3072}));
  EXPECT_FALSE(find(tensors, "lm_head.weight"));
  EXPECT_FALSE(find(tensors, "model.decoder.project_in.weight"));
}

TEST(Opt, ReadsTheConfigOfThe350M) {
  Json json = opt_json();
  json.update({{"do_layer_norm_before", false},
               {"word_embed_proj_dim", 512},
               {"hidden_size", 1024},
               {"num_attention_heads", 16},
               {"ffn_dim", 4096}});
  const Config config = read(json);
  EXPECT_FALSE(config.norm_first);
  EXPECT_FALSE(config.final_norm);
  const auto tensors = expected_tensors(config);
  EXPECT_EQ(find(tensors, "model.decoder.embed_tokens.weight")->shape, (Shape{50272, 512}));
  EXPECT_EQ(find(tensors, "model.decoder.project_in.weight")->shape, (Shape{1024, 512}));
  EXPECT_EQ(find(tensors, "model.decoder.project_out.weight")->shape, (Shape{512, 1024}));
  EXPECT_EQ(find(tensors, "model.decoder.embed_positions.weight")->shape, (Shape{2050, 1024}));
  EXPECT_FALSE(find(tensors, "model.decoder.final_layer_norm.weight"));
  EXPECT_TRUE(find(tensors, "model.decoder.layers.0.final_layer_norm.bias"));
}

TEST(Opt, ReadsWhatOthersChange) {
  Json json = opt_json();
  json.update(
      {{"enable_bias", false}, {"_remove_final_layer_norm", true}, {"tie_word_embeddings", false}, {"activation_function", "gelu_new"}});
  const Config config = read(json);
  EXPECT_FALSE(config.query_bias || config.output_bias || config.mlp_bias || config.final_norm || config.tied_head);
  EXPECT_EQ(config.activation, Activation::GeluTanh);
  const auto tensors = expected_tensors(config);
  EXPECT_TRUE(find(tensors, "lm_head.weight"));
  EXPECT_FALSE(find(tensors, "model.decoder.layers.0.self_attn.k_proj.bias"));
  EXPECT_FALSE(find(tensors, "model.decoder.final_layer_norm.weight"));
}

TEST(Opt, RefusesWhatItDoesNotCompute) {
  const auto with = [](const char* key, const Json& value) {
    Json json = opt_json();
    json[key] = value;
    return refusal(json);
  };
  EXPECT_NE(with("activation_function", "tanh").find("activation_function"), std::string::npos);
  EXPECT_NE(with("layer_norm_elementwise_affine", false).find("layer_norm_elementwise_affine"), std::string::npos);
  EXPECT_NE(with("num_attention_heads", 7).find("768"), std::string::npos);
  EXPECT_NE(with("ffn_dim", nullptr).find("ffn_dim"), std::string::npos);
}

}  // namespace
}  // namespace miq
