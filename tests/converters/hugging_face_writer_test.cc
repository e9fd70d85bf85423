// Folders written for transformers: what is in them, what comes back from them, and when they are refused.
#include "miq/converters/hugging_face_writer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>

#include "miq/base/error.h"
#include "miq/converters/open_model.h"
#include "miq/converters/sidecar.h"
#include "miq/formats/container.h"
#include "miq/formats/mapped_file.h"
#include "miq/formats/packed_matrix.h"
#include "miq/formats/safetensors.h"
#include "tests/model/small_model.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

Config even_config() {
  Config config;
  config.architecture = "llama";
  config.vocabulary = 41;
  config.hidden = 24;
  config.max_positions = 64;
  config.layers.assign(2, {4, 2, 6, 30});
  config.norm_epsilon = 1e-6;
  config.rope_theta = 20000;
  config.tied_head = true;
  return config;
}

// A matrix of groups with different widths, pruned, with rows that use few codes.
Tensor packed_matrix(std::int64_t rows, std::int64_t cols) {
  PackedMatrix matrix;
  matrix.rows = rows;
  matrix.cols = cols;
  matrix.bits_of_group = {4, 3};
  matrix.scale_dtype = DType::F32;
  std::mt19937 random(3);
  for (std::int64_t c = 0; c < cols; ++c) matrix.group_of_column.push_back(static_cast<std::uint16_t>(c % 3 == 0));
  for (std::int64_t i = 0; i < 2 * rows; ++i) {
    matrix.scales.push_back(0.013f * static_cast<float>(i + 1));
    matrix.zeros.push_back(static_cast<std::uint8_t>(random() % 8));
  }
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    matrix.codes.push_back(static_cast<std::uint8_t>(i / cols == 1 ? 5 : random() % 8));
    matrix.kept.push_back(random() % 2 == 0);
  }
  return pack(matrix);
}

Model sample(bool with_config_file = true) {
  Model model = test::small_model(even_config()).model;
  Tensor& q = model.tensors.at("model.layers.0.self_attn.q_proj.weight");
  q = packed_matrix(q.shape[0], q.shape[1]);
  Tensor& up = model.tensors.at("model.layers.1.mlp.up_proj.weight");
  std::vector<std::uint8_t> bytes(up.sections.at("data").bytes().begin(), up.sections.at("data").bytes().end());
  for (std::size_t i = 0; i < bytes.size(); i += 8) std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(i), 4, std::uint8_t{0});
  up = encode_bitmask(dense_tensor(up.dtype, up.shape, Blob(std::move(bytes))));
  Tensor& down = model.tensors.at("model.layers.1.mlp.down_proj.weight");
  down = encode_zstd(down);
  model.name = "sample of ours";
  model.method = {{"name", "mixed"}, {"sparsity", 0.5}};
  model.statistics = {{"matrices", Json::array({{{"error", 0.1}, {"name", "q"}}})}};
  model.calibration = {{"windows", 4}};
  model.source = {{"format", "gguf"}, {"digest", "00"}};
  if (with_config_file) {
    Json json = hugging_face_config(model.config);
    json["torch_dtype"] = "float32";
    model.files["config.json"] = Blob(std::string_view("  " + json.dump()));  // not as we would write it
    model.files["generation_config.json"] = Blob(std::string_view("{}"));
  }
  return model;
}

std::string slurp(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class HuggingFaceWriter : public testing::Test {
 protected:
  void SetUp() override {
    work_ = fs::path(testing::TempDir()) / ("miq_hf_out_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(work_);
    fs::create_directories(work_);
  }
  void TearDown() override { fs::remove_all(work_); }

  std::string out() const { return (work_ / "out").string(); }
  HuggingFaceExport write(const Model& model, HuggingFaceOptions options = {}) { return write_hugging_face_folder(model, out(), options, pool_); }
  std::string refusal(const Model& model, HuggingFaceOptions options = {}) {
    try {
      write(model, options);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  std::string digest(const Model& model) { return weights_digest(model, pool_); }
  std::string container_of(const Model& model) {
    save_model(model, (work_ / "x.miq").string());
    return slurp(work_ / "x.miq");
  }
  void expect_nothing_else() const {
    for (const auto& entry : fs::directory_iterator(work_)) EXPECT_EQ(entry.path().filename(), "out");
  }
  fs::path work_;
  ThreadPool pool_{2};
};

TEST_F(HuggingFaceWriter, FloatsWithTheirZeros) {
  const Model model = sample();
  const HuggingFaceExport result = write(model);
  EXPECT_EQ(result.shards, 1u);
  const SafetensorsFile file = open_safetensors(out() + "/model.safetensors");
  EXPECT_EQ(file.metadata.at("format"), "pt");
  ASSERT_EQ(file.entries.size(), model.tensors.size());
  for (const auto& [name, tensor] : model.tensors) {
    const SafetensorsEntry& entry = file.entries.at(name);
    EXPECT_EQ(entry.dtype, tensor.dtype);
    EXPECT_EQ(entry.shape, tensor.shape);
    EXPECT_TRUE(std::ranges::equal(file.data(entry).bytes(), decode(tensor, name).bytes())) << name;
  }
  EXPECT_EQ(slurp(out() + "/config.json"), model.files.at("config.json").text());
  EXPECT_EQ(slurp(out() + "/generation_config.json"), "{}");
  expect_nothing_else();
}

TEST_F(HuggingFaceWriter, TheContainerComesBackByteForByte) {
  for (const bool with_config_file : {true, false}) {
    const Model model = sample(with_config_file);
    const std::string before = container_of(model);
    fs::remove_all(out());
    write(model);
    const OpenedCheckpoint opened = open_checkpoint(out());
    EXPECT_TRUE(opened.restored);
    EXPECT_TRUE(opened.notes.empty());
    EXPECT_EQ(container_of(opened.model), before) << "config file: " << with_config_file;
  }
}

TEST_F(HuggingFaceWriter, ShardsAreFilledInOrder) {
  const Model model = sample();
  HuggingFaceOptions options;
  options.shard_bytes = 6000;
  const HuggingFaceExport result = write(model, options);
  EXPECT_GT(result.shards, 3u);
  const Json index = parse_json(slurp(out() + "/model.safetensors.index.json"), "index");
  EXPECT_EQ(index["metadata"]["total_size"], result.bytes);
  EXPECT_EQ(index["weight_map"].size(), model.tensors.size());
  std::map<std::string, std::uint64_t> sizes;
  for (const auto& [name, shard] : index["weight_map"].items()) sizes[shard.get<std::string>()] += *tensor_bytes(DType::F32, model.tensors.at(name).shape);
  EXPECT_EQ(sizes.size(), result.shards);
  for (const auto& [shard, bytes] : sizes) EXPECT_LE(bytes, 6000u) << shard;
  EXPECT_TRUE(open_checkpoint(out()).restored);
  EXPECT_EQ(digest(open_model(out())), digest(model));
}

TEST_F(HuggingFaceWriter, CastsRoundOnceAndSayTheirType) {
  Model model = sample();
  for (const DType dtype : {DType::F16, DType::BF16}) {
    fs::remove_all(out());
    HuggingFaceOptions options;
    options.dtype = dtype;
    write(model, options);
    EXPECT_EQ(parse_json(slurp(out() + "/config.json"), "config")["torch_dtype"], dtype == DType::F16 ? "float16" : "bfloat16");
    const OpenedCheckpoint opened = open_checkpoint(out());
    EXPECT_TRUE(opened.restored) << (opened.notes.empty() ? "" : opened.notes[0]);
    EXPECT_EQ(opened.model.method, model.method);
    EXPECT_EQ(opened.model.tensors.at("model.layers.0.self_attn.q_proj.weight").encoding, Encoding::Packed);
    const std::string name = "model.layers.0.mlp.gate_proj.weight";
    const Blob before = decode(model.tensors.at(name), name), after = decode(opened.model.tensors.at(name), name);
    for (std::size_t i = 0; i < after.size() / 2; ++i) {
      float value;
      std::uint16_t bits;
      std::memcpy(&value, before.bytes().data() + 4 * i, 4);
      std::memcpy(&bits, after.bytes().data() + 2 * i, 2);
      ASSERT_EQ(bits, dtype == DType::F16 ? f32_to_f16(value) : f32_to_bf16(value));
    }
  }
}

TEST_F(HuggingFaceWriter, ACastThatOverflowsIsRefusedAndLeavesNothing) {
  Model model = sample();
  std::vector<std::uint8_t> bytes(24 * 4);
  const float large = 70000;
  std::memcpy(bytes.data(), &large, 4);
  model.tensors["model.norm.weight"] = dense_tensor(DType::F32, {24}, Blob(std::move(bytes)));
  HuggingFaceOptions options;
  options.dtype = DType::F16;
  EXPECT_NE(refusal(model, options).find("'model.norm.weight': a value is too large for F16"), std::string::npos) << refusal(model, options);
  EXPECT_TRUE(fs::is_empty(work_));
}

TEST_F(HuggingFaceWriter, ASidecarIsBelievedOnlyForItsOwnWeights) {
  const Model model = sample();
  write(model);
  // One bit of one weight.
  std::fstream file(out() + "/model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(-3, std::ios::end);
  const char byte = static_cast<char>(file.get());
  file.seekp(-3, std::ios::end);
  file.put(static_cast<char>(byte ^ 1));
  file.close();
  OpenedCheckpoint opened = open_checkpoint(out());
  EXPECT_FALSE(opened.restored);
  ASSERT_EQ(opened.notes.size(), 1u);
  EXPECT_NE(opened.notes[0].find("the weights are not those"), std::string::npos) << opened.notes[0];
  EXPECT_TRUE(opened.model.method.empty());

  fs::remove_all(out());
  write(model);
  fs::resize_file(out() + "/miq.sidecar", 100);
  opened = open_checkpoint(out());
  EXPECT_FALSE(opened.restored);
  EXPECT_EQ(opened.model.source["format"], "hugging_face");

  fs::remove_all(out());
  write(model);
  Json config = parse_json(slurp(out() + "/config.json"), "config");
  config["rope_theta"] = 5;
  std::ofstream(out() + "/config.json") << config.dump();
  opened = open_checkpoint(out());
  EXPECT_FALSE(opened.restored);
  EXPECT_EQ(opened.model.config.rope_theta, 5);
}

// A sidecar whose matrices decode to other values than the folder's must not replace them.
TEST_F(HuggingFaceWriter, ASidecarThatDecodesToOtherValuesIsNotBelieved) {
  const Model model = sample();
  write(model);
  Container forged = read_container(out() + "/miq.sidecar");
  Tensor& q = forged.tensors.at("model.layers.0.self_attn.q_proj.weight");
  PackedMatrix matrix = unpack(q, "q");
  matrix.scales[0] *= 2;
  q = pack(matrix);
  write_container(out() + "/miq.sidecar", forged);
  const OpenedCheckpoint opened = open_checkpoint(out());
  EXPECT_FALSE(opened.restored);
  EXPECT_NE(opened.notes.at(0).find("decodes to other values"), std::string::npos) << opened.notes.at(0);
  EXPECT_EQ(digest(opened.model), digest(model));
}

TEST_F(HuggingFaceWriter, ASidecarThatSaysTooLittleOrTooMuchIsNotBelieved) {
  const Model model = sample();
  const auto expect_note = [&](const std::function<void(Json&, Container&)>& change, const std::string& words) {
    fs::remove_all(out());
    write(model);
    Container forged = read_container(out() + "/miq.sidecar");
    Json manifest = parse_json(forged.manifest, "manifest");
    change(manifest, forged);
    forged.manifest = manifest.dump();
    write_container(out() + "/miq.sidecar", forged);
    const OpenedCheckpoint opened = open_checkpoint(out());
    EXPECT_FALSE(opened.restored) << words;
    ASSERT_EQ(opened.notes.size(), 1u) << words;
    EXPECT_NE(opened.notes[0].find(words), std::string::npos) << opened.notes[0];
    EXPECT_EQ(digest(opened.model), digest(model));
  };
  expect_note([](Json& manifest, Container&) { manifest["sidecar_version"] = 2; }, "it is of another version");
  expect_note([](Json& manifest, Container&) { manifest.erase("method"); }, "no object 'method'");
  expect_note([](Json& manifest, Container&) { manifest.erase("name"); }, "no text 'name'");
  expect_note([](Json& manifest, Container&) { manifest["encodings"]["absent"] = "zstd"; }, "a tensor 'absent' that the folder does not hold");
  expect_note([](Json&, Container& forged) { forged.tensors.erase("model.layers.0.self_attn.q_proj.weight"); }, "q_proj.weight' is not in it");
}

TEST_F(HuggingFaceWriter, AnEditedTokenizerFileStands) {
  write(sample());
  std::ofstream(out() + "/generation_config.json") << "{\"x\": 1}";
  const OpenedCheckpoint opened = open_checkpoint(out());
  EXPECT_TRUE(opened.restored);
  EXPECT_EQ(opened.model.files.at("generation_config.json").text(), "{\"x\": 1}");
}

TEST_F(HuggingFaceWriter, ReplacesOnlyModels) {
  const Model model = sample();
  fs::create_directory(out());
  write(model);  // an empty folder
  HuggingFaceOptions options;
  options.shard_bytes = 6000;
  write(model, options);  // one of ours
  EXPECT_FALSE(fs::exists(out() + "/model.safetensors"));
  fs::remove(out() + "/miq.sidecar");
  EXPECT_NE(refusal(model).find("would be lost"), std::string::npos);
  options.force = true;
  write(model, options);
  std::ofstream(out() + "/thesis.tex") << "x";
  EXPECT_NE(refusal(model, options).find("holds 'thesis.tex'"), std::string::npos);
  EXPECT_TRUE(fs::exists(out() + "/thesis.tex"));
  fs::remove(out() + "/thesis.tex");
  fs::create_directory(out() + "/config.json.d");
  EXPECT_NE(refusal(model, options).find("'config.json.d'"), std::string::npos);
  expect_nothing_else();
  fs::remove_all(out());
  std::ofstream(out()) << "a file";
  EXPECT_NE(refusal(model).find("is no folder"), std::string::npos);
}

TEST_F(HuggingFaceWriter, LayersOfDifferentSizesHaveNoConfig) {
  Config config = even_config();
  config.layers[1].mlp_width = 20;
  const Model model = test::small_model(config).model;
  EXPECT_NE(refusal(model).find("layer 1 differs in size"), std::string::npos);
  EXPECT_TRUE(fs::is_empty(work_));
}

TEST(HuggingFaceConfig, IsRefusedWhereItCannotSayAll) {
  const auto refusal = [](const Config& config) -> std::string {
    try {
      hugging_face_config(config);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  Config config = even_config();
  EXPECT_EQ(refusal(config), "");
  config.query_bias = true;  // attention_bias would mean the output's too
  EXPECT_NE(refusal(config).find("it would not describe all of it"), std::string::npos) << refusal(config);
  config = even_config();
  config.architecture = "gpt2";
  EXPECT_NE(refusal(config).find("for architecture 'gpt2'"), std::string::npos) << refusal(config);
  config = even_config();
  config.sliced = true;
  EXPECT_NE(refusal(config).find("a sliced model has matrices"), std::string::npos) << refusal(config);
}

TEST(HuggingFaceConfig, IsReadBackAsTheSame) {
  Config config = even_config();
  const auto read_back = [&] { return config_from_hugging_face(hugging_face_config(config), "test").to_json(); };
  EXPECT_EQ(read_back(), config.to_json());
  config.rope_scaling = {RopeScaling::Kind::Linear, 2.5};
  config.bos_id = 1;
  EXPECT_EQ(read_back(), config.to_json());
  config.rope_scaling = {RopeScaling::Kind::Llama3, 8, 1, 4, 8192};
  config.tied_head = false;
  config.eos_id = 2;
  EXPECT_EQ(read_back(), config.to_json());
}

}  // namespace
}  // namespace miq
