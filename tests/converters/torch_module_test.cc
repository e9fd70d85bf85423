// Whole modules and state dicts in PyTorch files: found, named, sized layer by layer, or refused.
#include "miq/converters/torch_checkpoint.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "miq/base/error.h"
#include "miq/converters/open_model.h"
#include "tests/converters/pickled_module.h"
#include "tests/model/small_model.h"

namespace miq {
namespace {

namespace fs = std::filesystem;
using test::dict_ops;
using test::json_ops;
using test::object_ops;
using test::Ops;
using test::text_ops;

Json config_json(const Config& config) {
  return {{"model_type", "llama"},
          {"vocab_size", config.vocabulary},
          {"hidden_size", config.hidden},
          {"num_hidden_layers", config.layers.size()},
          {"num_attention_heads", 6},
          {"num_key_value_heads", 2},
          {"head_dim", 10},
          {"intermediate_size", 53},
          {"rms_norm_eps", 1e-5},
          {"max_position_embeddings", 4096},
          {"tie_word_embeddings", false},
          {"hidden_act", "silu"},
          {"_name_or_path", "/home/someone/model"},
          {"_attn_implementation_internal", "sdpa"},
          {"torch_dtype", "torch.float16"}};
}

Ops config_ops(const Json& json) { return object_ops("transformers.models.llama.configuration_llama", "LlamaConfig", json_ops(json)); }

class TorchModule : public testing::Test {
 protected:
  TorchModule() : config_(test::odd_config()), model_(test::small_model(config_).model), json_(config_json(config_)) {
    folder_ = fs::path(testing::TempDir()) / std::to_string(::getpid()) / "miq_torch_module";
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    for (std::size_t i = 0; i < config_.layers.size(); ++i) {
      const LayerConfig& layer = config_.layers[i];
      state_attention(i, {{"num_heads", layer.heads},
                          {"num_key_value_heads", layer.kv_heads},
                          {"num_key_value_groups", layer.heads / layer.kv_heads},
                          {"head_dim", layer.head_dim}});
    }
  }
  ~TorchModule() override { fs::remove_all(folder_.parent_path()); }

  void state_attention(std::size_t layer, const std::vector<std::pair<std::string, std::int64_t>>& values) {
    auto& list = sketch_.attributes["model.layers." + std::to_string(layer) + ".self_attn"];
    list.clear();
    for (const auto& [key, value] : values) list.emplace_back(key, json_ops(value));
  }

  std::string path() const { return (folder_ / "pruned.bin").string(); }

  // {'model': the module, …}
  void save_module(std::vector<std::pair<std::string, Ops>> more = {}) {
    if (!json_.is_null()) sketch_.attributes[""] = {{"config", config_ops(json_)}};
    more.insert(more.begin(), {"model", sketch_.module(model_.tensors)});
    sketch_.save(path(), dict_ops(more));
  }

  void expect_refused(const std::vector<std::string>& words) const {
    try {
      open_model(path());
      FAIL() << "expected an error with " << words.front();
    } catch (const Error& error) {
      for (const std::string& word : words) {
        EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << word << " in: " << error.what();
      }
    }
  }

  static std::string digest(const Model& model) {
    ThreadPool pool(2);
    return weights_digest(model, pool);
  }

  Config config_;
  Model model_;
  Json json_;
  test::TorchSketch sketch_;
  fs::path folder_;
};

TEST_F(TorchModule, HasTheSizesOfEachOfItsLayers) {
  save_module({{"tokenizer", "N"}});
  const OpenedCheckpoint opened = open_checkpoint(path());
  EXPECT_EQ(opened.kind->name, "torch");
  EXPECT_EQ(opened.model.config.layers, config_.layers);
  EXPECT_EQ(digest(opened.model), digest(model_));
  EXPECT_EQ(opened.model.name, "pruned");
  EXPECT_EQ(opened.model.source.at("format"), "torch_module");
  EXPECT_EQ(opened.model.method.at("changed_layers"), Json({1, 2}));
  const std::string kept(opened.model.files.at("config.json").text());
  EXPECT_EQ(kept.find("someone"), std::string::npos);
  EXPECT_NE(kept.find("\"float16\""), std::string::npos);
}

TEST_F(TorchModule, OnItsOwnWithoutADictAroundIt) {
  sketch_.attributes[""] = {{"config", config_ops(json_)}};
  sketch_.save(path(), sketch_.module(model_.tensors));
  EXPECT_EQ(digest(open_model(path())), digest(model_));
}

TEST_F(TorchModule, InAFolderWithoutAConfig) {
  save_module();
  fs::rename(path(), folder_ / "pytorch_model.bin");
  const Model model = open_model(folder_.string());
  EXPECT_EQ(digest(model), digest(model_));
  EXPECT_EQ(model.name, "miq_torch_module");
}

TEST_F(TorchModule, KeepsDeletedLayersInPlace) {
  std::erase_if(model_.tensors, [](const auto& entry) { return entry.first.starts_with("model.layers.1."); });
  sketch_.attributes.erase("model.layers.1.self_attn");
  sketch_.empty_modules = {"model.layers.1"};
  sketch_.classes["model.layers.1"] = "core.models.IdentityDecoderLayer";
  save_module();
  const Model model = open_model(path());
  ASSERT_EQ(model.config.layers.size(), 3u);
  EXPECT_TRUE(model.config.layers[1].identity);
  EXPECT_EQ(model.config.layers[2], config_.layers[2]);
  EXPECT_EQ(model.method.at("deleted_layers"), Json({1}));
  EXPECT_EQ(digest(model), digest(model_));
  sketch_.classes["model.layers.1"] = "core.models.SkippedLayer";
  save_module();
  expect_refused({"model.layers.1", "core.models.SkippedLayer", "no tensors"});
}

TEST_F(TorchModule, RefusesAttributesThatContradictTheTensors) {
  state_attention(1, {{"num_heads", 4}, {"head_dim", 6}});
  save_module();
  expect_refused({"model.layers.1", "num_heads 4", "make 3"});
  state_attention(1, {{"num_key_value_heads", 1}, {"head_dim", 6}});
  save_module();
  expect_refused({"num_key_value_heads 1", "make 3"});
  state_attention(1, {{"num_key_value_groups", 3}, {"head_dim", 6}});
  save_module();
  expect_refused({"num_key_value_groups 3", "make 1"});
  state_attention(1, {{"head_dim", 7}});
  save_module();
  expect_refused({"18 rows", "7"});
}

TEST_F(TorchModule, TakesTheNumberOfLayersFromTheModules) {
  json_["num_hidden_layers"] = 32;
  save_module();
  EXPECT_EQ(open_model(path()).config.layers.size(), 3u);
}

TEST_F(TorchModule, LeavesBuffersOutThatAreNotKept) {
  const Tensor frequencies = dense_tensor(DType::F32, {4}, Blob(std::vector<std::uint8_t>(16)));
  sketch_.buffers["model.layers.0.self_attn.rotary_emb"] = {{"inv_freq", sketch_.tensor(frequencies)}};
  sketch_.buffers["model.layers.0.mlp"] = {{"scratch", sketch_.tensor(frequencies)}, {"nothing", "N"}};
  sketch_.transient["model.layers.0.mlp"] = {"scratch"};
  save_module();
  EXPECT_EQ(digest(open_model(path())), digest(model_));
  sketch_.transient.clear();
  save_module();
  expect_refused({"model.layers.0.mlp.scratch"});
}

TEST_F(TorchModule, TiesTheHeadThatIsTheEmbedding) {
  model_.tensors["lm_head.weight"] = model_.tensors.at("model.embed_tokens.weight");
  save_module();
  const Model model = open_model(path());
  EXPECT_TRUE(model.config.tied_head);
  EXPECT_FALSE(model.tensors.contains("lm_head.weight"));
}

TEST_F(TorchModule, TakesConfigAndTokenizerFromTheFolderOrTheOption) {
  Json kept = json_;
  kept.erase("_attn_implementation_internal");  // an attribute of the object that no config.json has
  json_ = nullptr;
  save_module();
  expect_refused({"no model config", "--base-model"});
  const fs::path base = folder_ / "base";
  fs::create_directories(base);
  std::ofstream(base / "config.json") << kept.dump();
  EXPECT_EQ(digest(open_model(path(), {base.string()})), digest(model_));
  std::ofstream(folder_ / "config.json") << kept.dump();
  EXPECT_EQ(digest(open_model(path())), digest(model_));
}

TEST_F(TorchModule, TakesThePickledTokenizer) {
  Json vocabulary = Json::object();
  for (int byte = 33; byte < 127; ++byte) vocabulary[std::string(1, static_cast<char>(byte))] = byte - 33;
  const std::string tokenizer = Json{
      {"version", "1.0"},
      {"added_tokens", Json::array()},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"vocab", vocabulary},
        {"merges", Json::array()}}}}.dump();
  const Ops fast = object_ops("tokenizers", "Tokenizer", "B" + little(tokenizer.size(), 4) + tokenizer);
  const Ops object = object_ops(
      "transformers", "LlamaTokenizerFast",
      dict_ops(
          {{"_tokenizer", fast},
           {"init_kwargs", dict_ops({{"add_bos_token", "\x88"},
                                     {"vocab_file", text_ops("/home/someone/tokenizer.model")},
                                     {"note", dict_ops({{"__class__", json_ops(5)}})},  // a dict of the maker's, no object
                                     {"pad_token", object_ops("tokenizers", "AddedToken", dict_ops({{"content", text_ops("!")}}))}})}}));
  save_module({{"tokenizer", object}});
  const Model model = open_model(path());
  ASSERT_TRUE(model.tokenizer);
  EXPECT_EQ(model.files.at("tokenizer.json").text(), tokenizer);
  EXPECT_EQ(model.tokenizer->encode("ab", false), (std::vector<std::int32_t>{64, 65}));
  const Json kept = parse_json(model.files.at("tokenizer_config.json").text(), "");
  EXPECT_EQ(kept.at("pad_token").at("__type"), "AddedToken");
  EXPECT_EQ(kept.at("note"), (Json{{"__class__", 5}}));
  EXPECT_FALSE(kept.contains("vocab_file"));
}

TEST_F(TorchModule, StateDictsAloneAndWithinDicts) {
  Config config = config_;
  config.layers = {config_.layers[0], config_.layers[0]};
  model_ = test::small_model(config).model;
  json_["num_hidden_layers"] = 2;
  const Ops dict = sketch_.state_dict(model_.tensors);
  sketch_.save(path(), dict_ops({{"state_dict", dict},
                                 {"config", json_ops(json_)},
                                 {"epoch", json_ops(3)},
                                 {"method", text_ops("wanda")},
                                 {"base_model", json_ops(7)},  // no text: what programs would print as one
                                 {"sparsity_ratio", json_ops(0.5)}}));
  const Model model = open_model(path());
  EXPECT_EQ(digest(model), digest(model_));
  EXPECT_EQ(model.source.at("format"), "torch_state_dict");
  EXPECT_EQ(model.method.at("name"), "wanda");
  EXPECT_EQ(model.method.at("sparsity_ratio"), 0.5);
  EXPECT_FALSE(model.method.contains("base_model"));
  sketch_.save(path(), dict_ops({{"model", dict}, {"ema", dict}, {"config", text_ops(json_.dump())}}));
  EXPECT_EQ(digest(open_model(path())), digest(model_));
  sketch_.save(path(), dict);
  expect_refused({"no model config"});
  json_.erase("_attn_implementation_internal");
  std::ofstream(folder_ / "config.json") << json_.dump();
  EXPECT_EQ(digest(open_model(path())), digest(model_));
  sketch_.save(path(), dict_ops({{"teacher", dict}, {"student", dict}}));
  expect_refused({"several", "student", "teacher"});
  sketch_.save(path(), dict_ops({{"epoch", json_ops(3)}}));
  expect_refused({"no model in it"});
}

TEST_F(TorchModule, RefusesNamesThatStandForTwo) {
  const Ops tensor = sketch_.tensor(model_.tensors.begin()->second);
  const auto module = [](const Ops& parameters, const Ops& buffers, const Ops& modules) {
    return object_ops("some", "Module", dict_ops({{"_parameters", parameters}, {"_buffers", buffers}, {"_modules", modules}}));
  };
  sketch_.save(path(), module(dict_ops({{"w", tensor}}), dict_ops({{"w", tensor}}), "}"));
  expect_refused({"two tensors are named 'w'"});
  const Ops empty = module("}", "}", "}");
  sketch_.save(path(), module("}", "}", dict_ops({{"a.b", empty}, {"a", module("}", "}", dict_ops({{"b", empty}}))}})));
  expect_refused({"two modules are named 'a.b'"});
}

TEST_F(TorchModule, RefusesLayersWithAGapInTheirNumbers) {
  std::erase_if(model_.tensors, [](const auto& entry) { return entry.first.starts_with("model.layers.1."); });
  save_module();
  expect_refused({"the decoder layers 'model.layers.N' are 2, but numbered up to 2"});
}

TEST_F(TorchModule, RefusesAStateDictWithTensorsFurtherDown) {
  const Ops tensor = sketch_.tensor(model_.tensors.begin()->second);
  std::ofstream(folder_ / "config.json") << json_.dump();
  sketch_.save(path(), dict_ops({{"lm_head.weight", tensor}, {"more", dict_ops({{"w", tensor}})}}));
  expect_refused({"entry 'more' of the state dict holds tensors of its own"});
}

TEST_F(TorchModule, RefusesModulesThatContainThemselves) {
  const Ops inner = dict_ops({{"again", "h\x05"}});
  const Ops state = dict_ops({{"_parameters", "}"}, {"_buffers", "}"}, {"_modules", inner}});
  sketch_.save(path(), Pickle::bare().global("some", "Module").text + ")\x81q\x05" + state + "b");
  expect_refused({"modules nest deeper than 64 or contain themselves"});
  // 2^40 names of one parameter in forty modules.
  Ops nested = object_ops(
      "some", "Module", dict_ops({{"_parameters", dict_ops({{"w", sketch_.tensor(model_.tensors.begin()->second)}})}, {"_modules", "}"}}));
  for (int level = 0; level < 40; ++level) {
    const Ops twice = dict_ops({{"a", nested + "q" + static_cast<char>(level)}, {"b", std::string("h") + static_cast<char>(level)}});
    nested = object_ops("some", "Module", dict_ops({{"_parameters", "}"}, {"_modules", twice}}));
  }
  sketch_.save(path(), nested);
  expect_refused({"more than 300000"});
  sketch_.save(path(), object_ops("some", "Module", dict_ops({{"_parameters", "}"}, {"_modules", dict_ops({{"x", json_ops(3)}})}})));
  expect_refused({"'x'"});
  sketch_.save(path(), object_ops("some", "Module", dict_ops({{"_parameters", dict_ops({{"w", json_ops(3)}})}, {"_modules", "}"}})));
  expect_refused({"'w'"});
}

}  // namespace
}  // namespace miq
