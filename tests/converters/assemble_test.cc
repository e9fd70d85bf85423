// Names, tied heads, ignored buffers and layer sizes: what every reader of foreign checkpoints shares.
#include "miq/converters/assemble.h"

#include <gtest/gtest.h>

#include "miq/base/checked.h"
#include "miq/base/error.h"

namespace miq {
namespace {

Tensor filled(Shape shape, float first) {
  std::vector<std::uint8_t> bytes;
  for (std::uint64_t i = 0; i < *checked_elements(shape); ++i) {
    const float value = first + static_cast<float>(i) * 0.25f;
    bytes.insert(bytes.end(), reinterpret_cast<const std::uint8_t*>(&value), reinterpret_cast<const std::uint8_t*>(&value) + 4);
  }
  return dense_tensor(DType::F32, std::move(shape), Blob(std::move(bytes)));
}

// Two layers, 4 heads of 4, 2 key/value heads, hidden 16, MLP 12; own head.
CheckpointParts parts() {
  CheckpointParts made;
  made.where = "here.bin";
  made.name = "tiny";
  made.config_where = "here.bin (config)";
  made.config = {{"model_type", "llama"},    {"vocab_size", 10},         {"hidden_size", 16},        {"intermediate_size", 12},          {"num_hidden_layers", 2},
                 {"num_attention_heads", 4}, {"num_key_value_heads", 2}, {"rms_norm_eps", 1e-5}, {"max_position_embeddings", 64}, {"tie_word_embeddings", false}};
  made.tensors = {{"model.embed_tokens.weight", filled({10, 16}, 0)}, {"model.norm.weight", filled({16}, 1)}, {"lm_head.weight", filled({10, 16}, 2)}};
  for (int layer = 0; layer < 2; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    const float first = 10.f * static_cast<float>(layer);
    made.tensors[prefix + "input_layernorm.weight"] = filled({16}, first);
    made.tensors[prefix + "post_attention_layernorm.weight"] = filled({16}, first + 1);
    made.tensors[prefix + "self_attn.q_proj.weight"] = filled({16, 16}, first + 2);
    made.tensors[prefix + "self_attn.k_proj.weight"] = filled({8, 16}, first + 3);
    made.tensors[prefix + "self_attn.v_proj.weight"] = filled({8, 16}, first + 4);
    made.tensors[prefix + "self_attn.o_proj.weight"] = filled({16, 16}, first + 5);
    made.tensors[prefix + "mlp.gate_proj.weight"] = filled({12, 16}, first + 6);
    made.tensors[prefix + "mlp.up_proj.weight"] = filled({12, 16}, first + 7);
    made.tensors[prefix + "mlp.down_proj.weight"] = filled({16, 12}, first + 8);
  }
  made.source = {{"format", "test"}};
  return made;
}

CheckpointParts renamed(CheckpointParts made, const std::string& from, const std::string& to) {
  std::map<std::string, Tensor> tensors;
  for (auto& [name, tensor] : made.tensors) tensors[name.starts_with(from) ? to + name.substr(from.size()) : name] = tensor;
  made.tensors = tensors;
  return made;
}

std::string refusal(CheckpointParts made) {
  try {
    assemble_model(std::move(made));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string digest(CheckpointParts made) {
  ThreadPool pool(1);
  return weights_digest(assemble_model(std::move(made)), pool);
}

// Layer 1 with 3 query heads and 1 key/value head, MLP 7.
CheckpointParts pruned() {
  CheckpointParts made = parts();
  const std::string prefix = "model.layers.1.";
  made.tensors[prefix + "self_attn.q_proj.weight"] = filled({12, 16}, 1);
  made.tensors[prefix + "self_attn.k_proj.weight"] = filled({4, 16}, 1);
  made.tensors[prefix + "self_attn.v_proj.weight"] = filled({4, 16}, 1);
  made.tensors[prefix + "self_attn.o_proj.weight"] = filled({16, 12}, 1);
  made.tensors[prefix + "mlp.gate_proj.weight"] = filled({7, 16}, 1);
  made.tensors[prefix + "mlp.up_proj.weight"] = filled({7, 16}, 1);
  made.tensors[prefix + "mlp.down_proj.weight"] = filled({16, 7}, 1);
  return made;
}

TEST(Assemble, KeepsWhatItIsGiven) {
  const Model model = assemble_model(parts());
  EXPECT_EQ(model.name, "tiny");
  EXPECT_EQ(model.tensors.size(), 21u);
  EXPECT_EQ(model.source["format"], "test");
}

TEST(Assemble, TakesWrappersOffAndPutsTheBasePrefixOn) {
  const std::string expected = digest(parts());
  EXPECT_EQ(digest(renamed(renamed(parts(), "model.", "module.model."), "lm_head", "module.lm_head")), expected);
  EXPECT_EQ(digest(renamed(parts(), "model.", "")), expected);
  // Half of the names with the prefix: not certain, so nothing is changed and a tensor is missing.
  EXPECT_NE(refusal(renamed(parts(), "model.layers.1.", "layers.1.")).find("is missing"), std::string::npos);
}

TEST(Assemble, IgnoresOnlyTheListedBuffers) {
  CheckpointParts made = parts();
  made.tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = filled({2}, 0);
  EXPECT_EQ(refusal(made), "");
  made.tensors["model.layers.1.self_attn.rotary_emb.freqs"] = filled({2}, 0);
  EXPECT_NE(refusal(made).find("rotary_emb.freqs' [2] has no place"), std::string::npos);
}

TEST(Assemble, ATiedHeadMustBeTheEmbedding) {
  CheckpointParts made = parts();
  made.config["tie_word_embeddings"] = true;
  EXPECT_NE(refusal(made).find("here.bin: the config ties the head"), std::string::npos) << refusal(made);
  made.tensors["lm_head.weight"] = made.tensors["model.embed_tokens.weight"];
  EXPECT_FALSE(assemble_model(made).tensors.contains("lm_head.weight"));
  made.tensors.erase("model.embed_tokens.weight");
  EXPECT_TRUE(assemble_model(made).tensors.contains("model.embed_tokens.weight"));
}

TEST(Assemble, SizesComeFromTensorsOnlyWhereAsked) {
  EXPECT_NE(refusal(pruned()).find("but the config asks for"), std::string::npos);
  CheckpointParts made = pruned();
  made.sizes_from_tensors = true;
  const Model model = assemble_model(made);
  EXPECT_EQ(model.config.layers[0].heads, 4);
  EXPECT_EQ(model.config.layers[1].heads, 3);
  EXPECT_EQ(model.config.layers[1].kv_heads, 1);
  EXPECT_EQ(model.config.layers[1].mlp_width, 7);
}

TEST(Assemble, SizesThatNoHeadFitsAreRefused) {
  CheckpointParts made = pruned();
  made.sizes_from_tensors = true;
  made.tensors["model.layers.1.self_attn.q_proj.weight"] = filled({11, 16}, 1);
  EXPECT_NE(refusal(made).find("layer 1: the query projection has 11 rows"), std::string::npos) << refusal(made);
  made.tensors["model.layers.1.self_attn.q_proj.weight"] = filled({12, 16}, 1);
  made.tensors["model.layers.1.self_attn.k_proj.weight"] = filled({8, 16}, 1);
  EXPECT_NE(refusal(made).find("no multiple of 2 key/value heads"), std::string::npos) << refusal(made);
}

TEST(Assemble, ModulesStandAboveTheTensors) {
  CheckpointParts made = pruned();
  made.layers[1] = {6, 2, 2, 7};  // the same rows, cut into heads of 2
  EXPECT_EQ(assemble_model(made).config.layers[1].head_dim, 2);
  made.layers[2] = made.layers[1];
  EXPECT_NE(refusal(made).find("layer 2 is described"), std::string::npos);
}

}  // namespace
}  // namespace miq
