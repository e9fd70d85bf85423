// Sliced models from parts and from files; every disagreement is refused with both values.
#include "miq/converters/slicegpt.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "miq/base/error.h"
#include "miq/converters/hugging_face_writer.h"
#include "miq/converters/open_model.h"
#include "miq/formats/torch_writer.h"
#include "miq/model/architecture.h"
#include "tests/model/small_model.h"
#include "tests/model/small_sliced.h"

namespace miq {
namespace {

namespace fs = std::filesystem;
using test::base_config_json;
using test::sliced_config;
using test::small_model;

// All streams `width` wide, the last one and the head `head`.
Config even_config(const std::string& architecture, std::int64_t width = 24, std::int64_t head = 40) {
  Config config = sliced_config(architecture);
  for (LayerConfig& layer : config.layers) layer.input = layer.middle = layer.output = width;
  config.layers.back().output = head;
  return config;
}

CheckpointParts parts_of(const Config& config) {
  CheckpointParts parts;
  parts.where = "x_0.4.pt";
  parts.name = "x_0.4";
  parts.config_where = "base/config.json";
  parts.config = base_config_json(config);
  parts.tensors = small_model(config).model.tensors;
  return parts;
}

SliceFacts facts_of(const Config& config) {
  SliceFacts facts;
  facts.where = "x_0.4.pt";
  facts.schedule = slicing_schedule(config);
  facts.schedule_where = "x_0.4.json";
  facts.base_model = "x";
  return facts;
}

// Assembles and expects an error that names all of `words`.
void expect_refused(const CheckpointParts& parts, const SliceFacts& facts, const std::vector<std::string>& words) {
  try {
    assemble_sliced(parts, facts);
    FAIL() << "expected an error with " << words.front();
  } catch (const Error& error) {
    for (const std::string& word : words) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << word << " in: " << error.what();
    }
  }
}

void cut(Tensor& tensor, Shape shape) {
  tensor = dense_tensor(tensor.dtype, shape, Blob(std::vector<std::uint8_t>(*tensor_bytes(tensor.dtype, shape))));
}

TEST(SliceGpt, ReadsWidthsOfEveryLayer) {
  for (const char* architecture : {"llama", "opt"}) {
    for (const std::int64_t head : {40, 27}) {
      const Config config = sliced_config(architecture, head);
      const Model model = assemble_sliced(parts_of(config), facts_of(config));
      EXPECT_EQ(model.config.to_json(), config.to_json());
      EXPECT_EQ(model.method.at("name"), "slicegpt");
      EXPECT_EQ(model.method.at("sliced_head"), head != 40);
      EXPECT_EQ(model.method.at("base_model"), "x");
      EXPECT_DOUBLE_EQ(model.method.at("actual_ratio").get<double>(), 1 - (29 + 27) / 2.0 / 40);
    }
  }
}

TEST(SliceGpt, CountsParametersAgainstTheFusedModel) {
  const Config config = even_config("llama");
  const Model model = assemble_sliced(parts_of(config), facts_of(config));
  // Embedding and head; q and o, k and v, gate, up and down of each layer; the rotations.
  const std::int64_t before = 53 * 40 * 2 + 2 * (2 * 40 * 40 + 2 * 20 * 40 + 3 * 44 * 40);
  const std::int64_t after = 53 * (24 + 40) + 2 * (2 * 40 * 24 + 2 * 20 * 24 + 2 * 44 * 24) + 44 * (24 + 40) + 3 * 24 * 24 + 24 * 40;
  EXPECT_EQ(model.statistics.at("slicing").at("parameters_fused"), before);
  EXPECT_EQ(model.statistics.at("slicing").at("parameters"), after);
  EXPECT_DOUBLE_EQ(model.method.at("parameter_ratio").get<double>(), 1 - static_cast<double>(after) / static_cast<double>(before));
}

TEST(SliceGpt, TakesTheSparsityWhereThereIsNoJson) {
  const Config config = even_config("opt");
  SliceFacts facts = facts_of(config);
  facts.schedule = nullptr;
  facts.sparsity = 0.4;
  EXPECT_EQ(assemble_sliced(parts_of(config), facts).method.at("round_interval"), 8);
  facts.sparsity = 0.39;  // 24.4: 24 with either interval
  EXPECT_EQ(assemble_sliced(parts_of(config), facts).method.at("pruning_ratio"), 0.39);
  facts.sparsity = 0.3;  // 28, rounded to 24
  EXPECT_EQ(assemble_sliced(parts_of(config), facts).method.at("round_interval"), 8);
  facts.round_interval = 1;
  expect_refused(parts_of(config), facts, {"0.3", "round interval 1", "28", "24"});
  facts.round_interval.reset();
  facts.sparsity = 0.1;
  expect_refused(parts_of(config), facts, {"0.1", "32", "24"});
  facts.sparsity = 1.5;
  expect_refused(parts_of(config), facts, {"a sparsity of 1.5 is outside [0, 1)"});
  facts.sparsity.reset();
  EXPECT_FALSE(assemble_sliced(parts_of(config), facts).method.contains("pruning_ratio"));
  // Widths that no one sparsity makes need the json.
  facts.sparsity = 0.25;
  expect_refused(parts_of(sliced_config("opt")), facts, {"0.25", "29"});
}

TEST(SliceGpt, FindsTheNumberInAName) {
  EXPECT_EQ(sparsity_of_name("story_0.25"), 0.25);
  EXPECT_EQ(sparsity_of_name("Llama-2_7b_0.3"), 0.3);
  for (const char* name : {"story", "story_", "story_25", "story_1.5", "0.25", "story_0.2.5", "story_-0.25", "story_0.25x", "story_nan"}) {
    EXPECT_FALSE(sparsity_of_name(name)) << name;
  }
  EXPECT_EQ(sliced_width(128, 0.25, 8), 96);
  EXPECT_EQ(sliced_width(192, 0.2, 8), 152);
  EXPECT_EQ(sliced_width(192, 0.2, 1), 153);
}

TEST(SliceGpt, RefusesABaseModelThatWasNotSliced) {
  const Config config = even_config("llama");
  SliceFacts facts = facts_of(config);
  facts.schedule = nullptr;
  const auto with = [&](const char* key, std::int64_t value, const std::vector<std::string>& words, bool scheduled = false) {
    CheckpointParts parts = parts_of(config);
    parts.config[key] = value;
    expect_refused(parts, scheduled ? facts_of(config) : facts, words);
  };
  with("vocab_size", 54, {"vocabulary", "53", "54"});
  with("num_hidden_layers", 3, {"number of layers", "2", "3"});
  with("num_attention_heads", 2, {"key/value", "20 rows", "2 heads of dimension 20", "40"});  // 2 * 20 makes 40 query rows too
  with("num_key_value_heads", 4, {"key/value", "20", "40"});
  with("head_dim", 20, {"head dimension", "40", "80"});
  with("intermediate_size", 45, {"MLP width", "44", "45"});
  with("hidden_size", 80, {"the slices come from a hidden size of 40, but the base model's is 80"}, true);
  CheckpointParts parts = parts_of(config);
  parts.config["hidden_size"] = 80;
  parts.config["head_dim"] = 10;
  expect_refused(parts, facts, {"head has 40 columns", "80", "24"});
  parts = parts_of(config);
  parts.config["hidden_size"] = 20;
  parts.config["head_dim"] = 10;
  expect_refused(parts, facts, {"layer 0 has a width of 24, more than the base model's hidden size 20"});
}

TEST(SliceGpt, RefusesAScheduleOfAnotherFile) {
  const Config config = even_config("opt");
  const auto with = [&](const std::string& key, const Json& value, const std::vector<std::string>& words) {
    SliceFacts facts = facts_of(config);
    facts.schedule[Json::json_pointer(key)] = value;
    expect_refused(parts_of(config), facts, words);
  };
  with("/hidden_size", 48, {"48", "40"});
  with("/layers_num", 3, {"layers_num", "3", "2"});
  with("/head_dimension", 24, {"head_dimension", "24", "40"});
  with("/embedding_dimensions/0", 32, {"embedding_dimensions 0", "32", "24"});
  with("/embedding_dimensions/1", 32, {"embedding_dimensions 1", "32", "24"});
  with("/attention_input_dimensions/1", 32, {"attention_input_dimensions 1", "32", "24"});
  with("/attention_output_dimensions/0", 32, {"attention_output_dimensions 0", "32", "24"});
  with("/mlp_input_dimensions/0", 32, {"mlp_input_dimensions 0", "32", "24"});
  with("/mlp_output_dimensions/1", 24, {"mlp_output_dimensions 1", "24", "40"});
  with("/parallel_blocks", true, {"parallel_blocks"});
  with("/attention_input_dimensions", "many", {"JSON object"});
  SliceFacts facts = facts_of(config);
  const Config sliced_head = even_config("opt", 24, 24);
  facts.schedule.erase("head_dimension");
  facts.schedule.erase("mlp_output_dimensions");
  expect_refused(parts_of(sliced_head), facts, {"do_slice_head", "40", "24"});
}

TEST(SliceGpt, RefusesBrokenSlices) {
  const Config config = even_config("llama");
  SliceFacts facts = facts_of(config);
  facts.schedule = nullptr;
  const auto with = [&](const std::string& name, const Shape& shape, const std::vector<std::string>& words) {
    CheckpointParts parts = parts_of(config);
    if (shape.empty()) {
      parts.tensors.erase(name);
    } else {
      cut(parts.tensors.at(name), shape);
    }
    expect_refused(parts, facts, words);
  };
  with("model.layers.1.attn_shortcut_Q", {}, {"model.layers.1.attn_shortcut_Q", "missing", "The file holds no model sliced by SliceGPT"});
  with("model.layers.0.mlp_shortcut_Q", {}, {"model.layers.0.mlp_shortcut_Q", "missing"});
  with("lm_head.weight", {}, {"lm_head.weight", "missing"});
  with("model.embed_tokens.weight", {53, 32}, {"the attention rotation of layer 0 has 24 rows, but the stream before it is 32 wide"});
  with("model.layers.0.attn_shortcut_Q", {24, 32}, {"the MLP rotation of layer 0 has 24 rows, but the attention rotation 32 columns"});
  with("model.layers.0.mlp_shortcut_Q", {24, 32}, {"the attention rotation of layer 1 has 24 rows, but the stream before it is 32 wide"});
  with("model.layers.1.mlp_shortcut_Q", {24, 24}, {"the head has 40 columns, but the last layer hands on a width of 24"});
  with("model.layers.0.attn_shortcut_Q", {24}, {"dimensions"});
  with("model.layers.0.self_attn.v_proj.weight", {20, 32}, {"v_proj", "32", "24"});
  with("model.layers.0.mlp.down_proj.weight", {32, 44}, {"down_proj", "32", "24"});
  CheckpointParts parts = parts_of(config);
  parts.tensors.emplace("model.norm.weight", parts.tensors.at("model.embed_tokens.weight"));
  expect_refused(parts, facts, {"model.norm.weight"});
}

TEST(SliceGpt, RefusesModelsThatItDoesNotSlice) {
  const Config config = even_config("opt");
  CheckpointParts parts = parts_of(config);
  parts.config["do_layer_norm_before"] = false;
  expect_refused(parts, facts_of(config), {"normalises after"});
  parts = parts_of(config);
  parts.config["word_embed_proj_dim"] = 20;
  expect_refused(parts, facts_of(config), {"20"});
  const Config llama = even_config("llama");
  parts = parts_of(llama);
  parts.config.update({{"model_type", "mixtral"}, {"num_local_experts", 2}, {"num_experts_per_tok", 1}});
  expect_refused(parts, facts_of(llama), {"models of architecture 'mixtral' cannot be sliced by SliceGPT"});
}

// The official layout on disk, written by hand; read as folder, as file, and apart from the base model.
class SliceGptFiles : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("miq_slicegpt_" + std::to_string(::getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "sliced");
    fs::create_directories(folder_ / "base");
  }
  void TearDown() override { fs::remove_all(folder_); }
  static void text(const fs::path& path, const std::string& content) { std::ofstream(path, std::ios::binary) << content; }

  Model write(const Config& config, const std::string& name) {
    const Model model = small_model(config).model;
    std::vector<SafetensorsItem> items;
    for (const auto& [id, tensor] : model.tensors) {
      items.push_back({{id, tensor.dtype, tensor.shape}, [&tensor] { return decode(tensor, ""); }});
    }
    write_torch_state_dict((folder_ / "sliced" / (name + ".pt")).string(), items);
    text(folder_ / "sliced" / (name + ".json"), slicing_schedule(config).dump());
    for (const char* place : {"sliced", "base"}) text(folder_ / place / "config.json", base_config_json(config).dump());
    return model;
  }
  std::string at(const std::string& name) const { return (folder_ / name).string(); }
  fs::path folder_;
};

TEST_F(SliceGptFiles, AreOneModelHoweverTheyAreGiven) {
  ThreadPool pool(2);
  const Model model = write(even_config("opt"), "x_0.4");
  const std::string digest = weights_digest(model, pool);
  EXPECT_EQ(weights_digest(open_model(at("sliced")), pool), digest);
  EXPECT_EQ(weights_digest(open_model(at("sliced/x_0.4.pt")), pool), digest);
  EXPECT_EQ(weights_digest(open_slicegpt({at("sliced/x_0.4.pt"), at("base"), {}, {}, {}}), pool), digest);
  EXPECT_EQ(weights_digest(open_slicegpt({at("sliced"), at("base"), {}, {}, {}}), pool), digest);
  fs::remove(folder_ / "sliced" / "config.json");
  EXPECT_EQ(weights_digest(open_model(at("sliced/x_0.4.pt"), {at("base")}), pool), digest);
  EXPECT_THROW(open_model(at("sliced/x_0.4.pt")), Error);

  const Model named = open_slicegpt({at("sliced/x_0.4.pt"), at("base"), {}, {}, {}});
  EXPECT_EQ(named.method.at("pruning_ratio"), 0.4);
  EXPECT_EQ(named.method.at("base_model"), "base");
  EXPECT_EQ(named.name, "x_0.4");
}

TEST_F(SliceGptFiles, SayWhatIsThereInstead) {
  const Model model = write(even_config("llama"), "x_0.4");
  const auto expect_refused = [&](const std::string& name, const std::string& words) {
    try {
      open_slicegpt({at(name), at("base"), {}, {}, {}});
      ADD_FAILURE() << "expected an error with " << words;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  };
  expect_refused("nowhere", "no such file or folder");
  expect_refused("base", "a folder without a .pt file");
  expect_refused("base/config.json", "no PyTorch file");
  std::vector<SafetensorsItem> items;
  for (const auto& [id, tensor] : model.tensors) {
    if (!id.ends_with("_shortcut_Q")) items.push_back({{id, tensor.dtype, tensor.shape}, [&tensor] { return decode(tensor, ""); }});
  }
  write_torch_state_dict(at("sliced/y.pt"), items);
  expect_refused("sliced/y.pt", "no layer has a rotation 'attn_shortcut_Q'");
  expect_refused("sliced", "holds several .pt files");
}

TEST_F(SliceGptFiles, WithoutTheJson) {
  write(even_config("llama"), "x_0.4");
  fs::remove(folder_ / "sliced" / "x_0.4.json");
  EXPECT_EQ(open_slicegpt({at("sliced"), {}, {}, {}, {}}).method.at("round_interval"), 8);
  EXPECT_THROW(open_slicegpt({at("sliced"), {}, {}, 0.1, {}}), Error);
  EXPECT_THROW(open_slicegpt({at("sliced"), {}, {}, 0.3, 1}), Error);
  EXPECT_THROW(open_slicegpt({at("sliced"), {}, at("nowhere.json"), {}, {}}), Error);
  EXPECT_THROW(open_slicegpt({at("base"), {}, {}, {}, {}}), Error);
  EXPECT_THROW(open_slicegpt({at("sliced"), {}, {}, -1, {}}), UsageError);
  fs::rename(folder_ / "sliced" / "x_0.4.pt", folder_ / "sliced" / "x_0.2.pt");
  EXPECT_THROW(open_slicegpt({at("sliced"), {}, {}, {}, {}}), Error);
}

TEST_F(SliceGptFiles, ComeBackFromTheFolderThatIsWritten) {
  ThreadPool pool(2);
  for (const char* architecture : {"llama", "opt"}) {
    for (const std::int64_t head : {40, 27}) {
      const Config config = sliced_config(architecture, head);
      const std::string name = std::string("y_0.3");
      write(config, name);
      const Model model = open_model(at("sliced"));
      const HuggingFaceExport written = write_hugging_face_folder(model, at("out"), {}, pool);
      EXPECT_EQ(written.tensors, model.tensors.size());
      EXPECT_TRUE(fs::exists(folder_ / "out" / "y_0.3.pt"));
      const OpenedCheckpoint again = open_checkpoint(at("out"));
      EXPECT_TRUE(again.restored);
      EXPECT_EQ(weights_digest(again.model, pool), weights_digest(model, pool));
      EXPECT_EQ(again.model.config.to_json(), model.config.to_json());
      EXPECT_EQ(again.model.method, model.method);
      EXPECT_EQ(again.model.source, model.source);
      save_model(model, at("a.miq"));
      save_model(again.model, at("b.miq"));
      const auto slurp = [](const std::string& path) {
        std::ifstream file(path, std::ios::binary);
        return std::string(std::istreambuf_iterator<char>(file), {});
      };
      EXPECT_EQ(slurp(at("a.miq")), slurp(at("b.miq")));
      fs::remove_all(folder_ / "out");
    }
  }
}

}  // namespace
}  // namespace miq
