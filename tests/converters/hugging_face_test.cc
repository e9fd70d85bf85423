// Broken model folders: each is a good one with one thing changed, and each is refused by name.
#include "miq/converters/hugging_face.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "miq/base/checked.h"
#include "miq/base/error.h"
#include "miq/converters/open_model.h"
#include "miq/formats/safetensors.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

Json tiny_config() {
  return {{"model_type", "llama"},     {"vocab_size", 10},          {"hidden_size", 8},
          {"intermediate_size", 12},   {"num_hidden_layers", 1},    {"num_attention_heads", 2},
          {"num_key_value_heads", 1},  {"rms_norm_eps", 1e-5},      {"max_position_embeddings", 64},
          {"tie_word_embeddings", true}};
}

std::vector<SafetensorsLayout> tiny_tensors() {
  return {{"model.embed_tokens.weight", DType::F32, {10, 8}},
          {"model.layers.0.input_layernorm.weight", DType::F32, {8}},
          {"model.layers.0.mlp.down_proj.weight", DType::F32, {8, 12}},
          {"model.layers.0.mlp.gate_proj.weight", DType::F32, {12, 8}},
          {"model.layers.0.mlp.up_proj.weight", DType::F32, {12, 8}},
          {"model.layers.0.post_attention_layernorm.weight", DType::F32, {8}},
          {"model.layers.0.self_attn.k_proj.weight", DType::F32, {4, 8}},
          {"model.layers.0.self_attn.o_proj.weight", DType::F32, {8, 8}},
          {"model.layers.0.self_attn.q_proj.weight", DType::F32, {8, 8}},
          {"model.layers.0.self_attn.v_proj.weight", DType::F32, {4, 8}},
          {"model.norm.weight", DType::F32, {8}}};
}

void write_text(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

// Elements are a running count, so that every tensor differs.
void write_tensors(const fs::path& path, const std::vector<SafetensorsLayout>& tensors) {
  std::string file = safetensors_header(tensors, {});
  float next = 0;
  for (const auto& tensor : tensors) {
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(*checked_elements(tensor.shape)); ++i) {
      next += 0.25f;
      file.append(reinterpret_cast<const char*>(&next), sizeof next);
    }
  }
  write_text(path, file);
}

class HuggingFaceFolder : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("miq_hf_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    write_text(folder_ / "config.json", tiny_config().dump());
    write_tensors(folder_ / "model.safetensors", tiny_tensors());
  }
  void TearDown() override { fs::remove_all(folder_); }

  void set_config(const Json& change) {
    Json json = tiny_config();
    json.update(change);
    write_text(folder_ / "config.json", json.dump());
  }
  // Splits the tensors over two shards; returns the index for changes.
  Json make_shards() {
    fs::remove(folder_ / "model.safetensors");
    auto tensors = tiny_tensors();
    const std::vector<SafetensorsLayout> first(tensors.begin(), tensors.begin() + 4), second(tensors.begin() + 4, tensors.end());
    write_tensors(folder_ / "model-00001-of-00002.safetensors", first);
    write_tensors(folder_ / "model-00002-of-00002.safetensors", second);
    Json index{{"weight_map", Json::object()}};
    for (const auto& tensor : first) index["weight_map"][tensor.name] = "model-00001-of-00002.safetensors";
    for (const auto& tensor : second) index["weight_map"][tensor.name] = "model-00002-of-00002.safetensors";
    write_index(index);
    return index;
  }
  void write_index(const Json& index) { write_text(folder_ / "model.safetensors.index.json", index.dump()); }
  std::string refusal() {
    try {
      open_model(folder_.string());
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  void expect_refused(const std::string& expected) {
    const std::string message = refusal();
    EXPECT_NE(message.find(expected), std::string::npos) << "message: '" << message << "'";
  }
  fs::path folder_;
};

TEST_F(HuggingFaceFolder, OpensAWholeOne) {
  const Model model = open_model(folder_.string());
  EXPECT_EQ(model.tensors.size(), tiny_tensors().size());
  EXPECT_EQ(model.source["format"], "hugging_face");
  EXPECT_TRUE(model.files.contains("config.json"));
}

TEST_F(HuggingFaceFolder, ShardsGiveTheSameWeights) {
  ThreadPool pool(1);
  Json index = make_shards();
  EXPECT_EQ(open_model(folder_.string()).tensors.size(), tiny_tensors().size());
  index["weight_map"]["ghost.weight"] = "model-00001-of-00002.safetensors";
  write_index(index);
  expect_refused("'ghost.weight' is missing, though the index places it here");
}

TEST_F(HuggingFaceFolder, RefusesATensorThatTheIndexDoesNotList) {
  Json index = make_shards();
  index["weight_map"].erase("model.norm.weight");
  write_index(index);
  expect_refused("'model.norm.weight' is not in the index");
}

TEST_F(HuggingFaceFolder, RefusesAMissingAndAStrayShard) {
  make_shards();
  write_tensors(folder_ / "model-00003-of-00003.safetensors", {{"x", DType::F32, {1}}});
  expect_refused("'model-00003-of-00003.safetensors' lies beside the shards");
  fs::remove(folder_ / "model-00003-of-00003.safetensors");
  fs::remove(folder_ / "model-00002-of-00002.safetensors");
  expect_refused("shard 'model-00002-of-00002.safetensors' is missing");
}

TEST_F(HuggingFaceFolder, RefusesShardNamesThatLeaveTheFolder) {
  for (const char* name : {"../x.safetensors", "/etc/x.safetensors", "a\\b.safetensors", "C:x.safetensors", "x.bin", ".x.safetensors", ""}) {
    Json index = make_shards();
    index["weight_map"]["model.norm.weight"] = name;
    write_index(index);
    expect_refused("is not the plain name of a .safetensors file");
  }
}

TEST_F(HuggingFaceFolder, RefusesAMissingTensor) {
  auto tensors = tiny_tensors();
  tensors.pop_back();
  write_tensors(folder_ / "model.safetensors", tensors);
  expect_refused("'model.norm.weight' [8] is missing");
}

TEST_F(HuggingFaceFolder, RefusesATensorThatNothingUses) {
  auto tensors = tiny_tensors();
  tensors.push_back({"model.layers.0.self_attn.q_proj.bias", DType::F32, {8}});
  write_tensors(folder_ / "model.safetensors", tensors);
  expect_refused("'model.layers.0.self_attn.q_proj.bias' [8] has no place");
}

TEST_F(HuggingFaceFolder, IgnoresTheRotaryBufferOfOldFiles) {
  auto tensors = tiny_tensors();
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", DType::F32, {2}});
  write_tensors(folder_ / "model.safetensors", tensors);
  EXPECT_EQ(refusal(), "");
}

TEST_F(HuggingFaceFolder, RefusesAShapeThatTheConfigDoesNotAskFor) {
  set_config({{"intermediate_size", 16}});
  expect_refused("has shape [12, 8], but the config asks for [16, 8]");
}

TEST_F(HuggingFaceFolder, TiedHeadStoredTwiceMustBeTheEmbedding) {
  auto tensors = tiny_tensors();
  tensors.push_back({"lm_head.weight", DType::F32, {10, 8}});
  write_tensors(folder_ / "model.safetensors", tensors);  // the running count makes it differ
  expect_refused("'lm_head.weight' differs");
  set_config({{"tie_word_embeddings", false}});
  EXPECT_EQ(refusal(), "");
}

TEST_F(HuggingFaceFolder, TiedWeightsMayBeStoredAsTheHeadAlone) {
  auto tensors = tiny_tensors();
  tensors[0].name = "lm_head.weight";
  write_tensors(folder_ / "model.safetensors", tensors);
  const Model model = open_model(folder_.string());
  EXPECT_TRUE(model.tensors.contains("model.embed_tokens.weight"));
  EXPECT_FALSE(model.tensors.contains("lm_head.weight"));
}

TEST_F(HuggingFaceFolder, SpecialIdsMustExist) {
  set_config({{"bos_token_id", 10}});
  expect_refused("begin-of-text token id 10 lies outside");
}

TEST_F(HuggingFaceFolder, SaysWhatIsThereInsteadOfWeights) {
  fs::remove(folder_ / "model.safetensors");
  expect_refused("no weights found");
  write_text(folder_ / "pytorch_model.bin", "PK");
  expect_refused("pytorch_model.bin");
}

TEST(OpenModel, SaysWhatAFileLooksLike) {
  const fs::path folder = fs::path(testing::TempDir()) / "miq_open_model";
  fs::create_directories(folder);
  const std::vector<std::pair<std::string, std::string>> cases{{"", "empty"}, {"PK\3\4xxxx", "too short for a zip file"}, {"\x80\2}q", "is cut short"}, {"hello, world", "unknown kind"}, {"version https://git-lfs", "Git LFS pointer"}};
  for (const auto& [content, expected] : cases) {
    const std::string path = (folder / "file").string();
    write_text(path, content);
    try {
      open_model(path);
      FAIL() << content;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(expected), std::string::npos) << error.what();
    }
  }
  try {
    open_model((folder / "absent").string());
    ADD_FAILURE() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("no such file or folder"), std::string::npos) << error.what();
  }
  fs::remove_all(folder);
}

}  // namespace
}  // namespace miq
