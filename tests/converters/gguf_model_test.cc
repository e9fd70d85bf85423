// GGUF files of several architectures, made byte by byte: configurations, rows put back in order, experts
// taken apart, parts put together, and what is refused. compare_families.py runs such models.
#include "miq/converters/gguf_model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numbers>

#include "miq/base/error.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

template <class T>
std::string bytes_of(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}
std::string text_of(const std::string& text) { return bytes_of<std::uint64_t>(text.size()) + text; }

struct Gguf {
  std::map<std::string, std::string> values;  // type and content
  struct Entry {
    Shape shape;
    std::vector<float> data;
    std::uint32_t type = 0;
    std::string blocks = {};  // instead of data, where the type is another
  };
  std::map<std::string, Entry> tensors;

  void set(const std::string& key, std::uint32_t value) { values[key] = bytes_of<std::uint32_t>(4) + bytes_of(value); }
  void set(const std::string& key, float value) { values[key] = bytes_of<std::uint32_t>(6) + bytes_of(value); }
  void set(const std::string& key, const char* value) { values[key] = bytes_of<std::uint32_t>(8) + text_of(value); }
  // Element i is `first` + i.
  void add(const std::string& name, const Shape& shape, float first) {
    std::int64_t count = 1;
    for (const std::int64_t d : shape) count *= d;
    Entry& entry = tensors[name] = {shape, std::vector<float>(static_cast<std::size_t>(count))};
    for (float& value : entry.data) value = first++;
  }
  std::string content() const {
    std::string out = "GGUF" + bytes_of<std::uint32_t>(3) + bytes_of<std::uint64_t>(tensors.size()) + bytes_of<std::uint64_t>(values.size());
    for (const auto& [key, value] : values) out += text_of(key) + value;
    std::string data;
    for (const auto& [name, entry] : tensors) {
      out += text_of(name) + bytes_of<std::uint32_t>(static_cast<std::uint32_t>(entry.shape.size()));
      for (auto d = entry.shape.rbegin(); d != entry.shape.rend(); ++d) out += bytes_of<std::uint64_t>(static_cast<std::uint64_t>(*d));
      out += bytes_of(entry.type) + bytes_of<std::uint64_t>(data.size());
      if (entry.type != 0) data += entry.blocks;
      else data.append(reinterpret_cast<const char*>(entry.data.data()), entry.data.size() * sizeof(float));
      data.resize((data.size() + 31) / 32 * 32);
    }
    out.resize((out.size() + 31) / 32 * 32);
    return out + data;
  }
};

// 8 channels, 2 heads of 4, 1 key/value head, an MLP of 6, 10 tokens, one layer.
Gguf small(const std::string& type) {
  Gguf file;
  file.set("general.architecture", type.c_str());
  for (const auto& [key, value] : std::initializer_list<std::pair<const char*, std::uint32_t>>{
           {"embedding_length", 8}, {"context_length", 64}, {"attention.head_count", 2}, {"attention.head_count_kv", 1},
           {"feed_forward_length", 6}, {"block_count", 1}}) {
    file.set(type + "." + key, value);
  }
  file.set(type + ".attention.layer_norm_rms_epsilon", 1e-5f);
  file.add("token_embd.weight", {10, 8}, 0);
  file.add("output_norm.weight", {8}, 1);
  file.add("blk.0.attn_norm.weight", {8}, 1);
  file.add("blk.0.attn_q.weight", {8, 8}, 100);
  file.add("blk.0.attn_k.weight", {4, 8}, 200);
  file.add("blk.0.attn_v.weight", {4, 8}, 300);
  file.add("blk.0.attn_output.weight", {8, 8}, 400);
  file.add("blk.0.ffn_norm.weight", {8}, 1);
  file.add("blk.0.ffn_gate.weight", {6, 8}, 500);
  file.add("blk.0.ffn_up.weight", {6, 8}, 600);
  file.add("blk.0.ffn_down.weight", {8, 6}, 700);
  return file;
}

Gguf small_mixture() {
  Gguf file = small("llama");
  for (const char* name : {"gate", "up", "down"}) file.tensors.erase("blk.0.ffn_" + std::string(name) + ".weight");
  file.set("llama.expert_count", 3u);
  file.set("llama.expert_used_count", 2u);
  file.add("blk.0.ffn_gate_inp.weight", {3, 8}, 0);
  file.add("blk.0.ffn_gate_exps.weight", {3, 6, 8}, 1000);
  file.add("blk.0.ffn_up_exps.weight", {3, 6, 8}, 2000);
  file.add("blk.0.ffn_down_exps.weight", {3, 8, 6}, 3000);
  return file;
}

class GgufModel : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  std::string write(const Gguf& file, const std::string& name = "model.gguf") {
    const std::string path = (folder_ / name).string();
    std::ofstream(path, std::ios::binary) << file.content();
    return path;
  }
  Model open(const Gguf& file) {
    Model model = open_gguf_model(write(file));
    validate(model);
    return model;
  }
  std::string refusal(const Gguf& file, const std::string& name = "model.gguf") {
    try {
      validate(open_gguf_model(write(file, name)));
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  const fs::path folder_ = fs::temp_directory_path() / ("gguf_model_test_" + std::to_string(::getpid()));
};

std::vector<float> values(const Model& model, const std::string& name) {
  const Blob data = decode(model.tensors.at(name), name);
  std::vector<float> out(data.size() / sizeof(float));
  std::memcpy(out.data(), data.bytes().data(), data.size());
  return out;
}

TEST_F(GgufModel, PutsTheRowsOfLlamasQueriesAndKeysBackInOrder) {
  const Model model = open(small("llama"));
  EXPECT_EQ(model.config.architecture, "llama");
  EXPECT_TRUE(model.config.tied_head);
  // A head's rows 0, 1, 2, 3 there are rows 0, 2, 1, 3 here.
  const auto q = values(model, "model.layers.0.self_attn.q_proj.weight"), k = values(model, "model.layers.0.self_attn.k_proj.weight");
  const std::vector<float> rows{0, 2, 1, 3, 4, 6, 5, 7};
  for (std::size_t row = 0; row < 8; ++row) EXPECT_EQ(q[row * 8 + 3], 100 + rows[row] * 8 + 3) << row;
  for (std::size_t row = 0; row < 4; ++row) EXPECT_EQ(k[row * 8 + 3], 200 + rows[row] * 8 + 3) << row;
  EXPECT_EQ(values(model, "model.layers.0.self_attn.v_proj.weight")[8], 308);
}

TEST_F(GgufModel, Qwen2HasBiasesAndItsRowsInOrder) {
  Gguf file = small("qwen2");
  file.add("blk.0.attn_q.bias", {8}, 0);
  file.add("blk.0.attn_k.bias", {4}, 0);
  file.add("blk.0.attn_v.bias", {4}, 0);
  const Model model = open(file);
  EXPECT_EQ(model.config.architecture, "qwen2");
  EXPECT_TRUE(model.config.query_bias);
  EXPECT_EQ(values(model, "model.layers.0.self_attn.q_proj.weight")[8], 108);
  EXPECT_EQ(values(model, "model.layers.0.self_attn.q_proj.bias")[2], 2);
  file.tensors.erase("blk.0.attn_k.bias");
  EXPECT_NE(refusal(file).find("'model.layers.0.self_attn.k_proj.bias' [4] is missing"), std::string::npos);
}

TEST_F(GgufModel, ExpertsAreTakenApart) {
  const Model model = open(small_mixture());
  EXPECT_EQ(model.config.architecture, "mixtral");
  EXPECT_EQ(model.config.layers[0].experts, 3);
  EXPECT_EQ(model.config.layers[0].mlp_width, 6);
  EXPECT_EQ(values(model, "model.layers.0.block_sparse_moe.experts.2.w1.weight")[5], 1000 + 2 * 48 + 5);
  EXPECT_EQ(values(model, "model.layers.0.block_sparse_moe.experts.1.w2.weight")[0], 3000 + 48);
  const auto expected = values(model, "model.layers.0.block_sparse_moe.experts.2.w1.weight");  // before the mapped file is written anew
  Gguf old = small_mixture();  // one tensor for each expert
  for (const char* name : {"gate", "up", "down"}) {
    const auto merged = old.tensors.extract("blk.0.ffn_" + std::string(name) + "_exps.weight").mapped();
    for (int expert = 0; expert < 3; ++expert) {
      old.add("blk.0.ffn_" + std::string(name) + "." + std::to_string(expert) + ".weight", {merged.shape[1], merged.shape[2]},
              merged.data[static_cast<std::size_t>(expert * 48)]);
    }
  }
  const Model same = open(old);
  EXPECT_EQ(values(same, "model.layers.0.block_sparse_moe.experts.2.w1.weight"), expected);
}

TEST_F(GgufModel, Llama3ParametersAreFoundInTheirTable) {
  Gguf file = small("llama");
  file.set("llama.rope.freq_base", 500000.0f);
  file.set("llama.attention.key_length", 64u);
  file.tensors.erase("blk.0.attn_q.weight");
  file.add("blk.0.attn_q.weight", {128, 8}, 0);
  file.add("blk.0.attn_k.weight", {64, 8}, 0);
  file.add("blk.0.attn_v.weight", {64, 8}, 0);
  file.add("blk.0.attn_output.weight", {8, 128}, 0);
  const auto table = [&](double factor, double low, double high, double original) {
    file.add("rope_freqs.weight", {32}, 0);
    for (std::size_t i = 0; i < 32; ++i) {
      const double wavelength = 2 * std::numbers::pi * std::pow(500000.0, static_cast<double>(i) / 32);
      const double smooth = (original / wavelength - low) / (high - low);
      file.tensors["rope_freqs.weight"].data[i] = static_cast<float>(
          wavelength < original / high ? 1 : wavelength > original / low ? factor : 1 / ((1 - smooth) / factor + smooth));
    }
  };
  for (const auto& [factor, original] : {std::pair{8.0, 8192}, {32.0, 8192}, {4.0, 2000}}) {
    table(factor, 1, 4, original);
    const RopeScaling scaling = open(file).config.rope_scaling;
    EXPECT_EQ(scaling.kind, RopeScaling::Kind::Llama3);
    EXPECT_EQ(scaling.factor, factor);
    EXPECT_EQ(scaling.original_max_positions, original);
    EXPECT_EQ(scaling.high_frequency_factor, 4);
  }
  file.tensors["rope_freqs.weight"].data[3] = 7;
  EXPECT_NE(refusal(file).find("rope_freqs.weight"), std::string::npos);
  for (float& value : file.tensors["rope_freqs.weight"].data) value = std::nanf("");
  EXPECT_NE(refusal(file).find("not Llama 3's"), std::string::npos);
}

TEST_F(GgufModel, PartsAreOpenedTogether) {
  const Gguf whole = small("llama");
  Gguf first = whole, second;
  for (const char* name : {"blk.0.attn_q.weight", "output_norm.weight"}) second.tensors.insert(first.tensors.extract(name));
  for (Gguf* part : {&first, &second}) part->set("split.count", 2u);
  const std::string path = write(first, "m-00001-of-00002.gguf");
  EXPECT_THROW(open_gguf_model(path), Error);
  EXPECT_NE(refusal(first, "m-00001-of-00002.gguf").find("part 'm-00002-of-00002.gguf' is missing"), std::string::npos);
  const std::string other = write(second, "m-00002-of-00002.gguf");
  const Model a = open_gguf_model(path), b = open_gguf_model(other), c = open(whole);
  for (const auto& [name, tensor] : c.tensors) {
    EXPECT_EQ(values(a, name), values(c, name)) << name;
    EXPECT_EQ(values(b, name), values(c, name)) << name;
  }
  EXPECT_NE(refusal(first, "renamed.gguf").find("does not end in"), std::string::npos);
  second.set("split.count", 3u);
  write(second, "m-00002-of-00002.gguf");
  EXPECT_NE(refusal(first, "m-00001-of-00002.gguf").find("the part says that there are 3 parts"), std::string::npos);
  second.set("split.count", 2u);
  second.add("token_embd.weight", {10, 8}, 0);
  write(second, "m-00002-of-00002.gguf");
  EXPECT_NE(refusal(first, "m-00001-of-00002.gguf").find("is in another part too"), std::string::npos);
}

TEST_F(GgufModel, RefusalsSayWhatWasFound) {
  const std::vector<std::pair<std::function<void(Gguf&)>, std::string>> cases{
      {[](Gguf& f) { f.set("general.architecture", "gemma"); }, "'gemma' is not supported; supported: llama, qwen2"},
      {[](Gguf& f) { f.values.erase("llama.block_count"); }, "'llama.block_count' is missing"},
      {[](Gguf& f) { f.set("llama.attention.head_count_kv", 3u); }, "no multiple of 3"},
      {[](Gguf& f) { f.set("llama.attention.head_count", 90u); f.values.erase("llama.attention.head_count_kv"); }, "more heads than"},
      {[](Gguf& f) { f.set("llama.rope.scaling.type", "longrope"); }, "'longrope' is not supported"},
      {[](Gguf& f) { f.set("llama.rope.dimension_count", 2u); }, "only a part of each head"},
      {[](Gguf& f) { f.add("blk.1.attn_q.weight", {8, 8}, 0); }, "'blk.1.attn_q.weight' has no place"},
      {[](Gguf& f) { f.add("blk.0.attn_q_norm.weight", {4}, 0); }, "'model.layers.0.self_attn.q_norm.weight' [4] has no place"},
      {[](Gguf& f) { f.add("blk.0.ffn_gate.1.weight", {6, 8}, 0); }, "has no place"},
      {[](Gguf& f) { f.add("blk.0.ffn_gate_exps.weight", {2, 6, 8}, 0); }, "has no place"},
      {[](Gguf& f) { f.add("blk.0.attn_q.weight", {6, 8}, 0); }, "do not divide into 2 heads"},
      {[](Gguf& f) { f.add("token_embd.weight", {2, 10, 8}, 0); }, "'token_embd.weight' is missing or no matrix"},
      {[](Gguf& f) { f.set("split.count", 0u); }, "'split.count'"},
      {[](Gguf& f) { f.set("llama.block_count", 0u); }, "'llama.block_count' is not a size between 1 and 2^32"},
      {[](Gguf& f) { f.set("llama.block_count", 100'001u); }, "100001 layers are more than any model has"},
      {[](Gguf& f) { f.add("rope_freqs.weight", {3}, 1); }, "does not have one number for each pair of a head"},
      {[](Gguf& f) {
         f.set("llama.rope.scaling.type", "yarn");
         f.set("llama.rope.scaling.factor", 2.0f);
         f.set("llama.rope.scaling.attn_factor", 0.5f);
       }, "'llama.rope.scaling.attn_factor' is not 1"}};
  ASSERT_EQ(refusal(small("llama")), "");
  for (const auto& [change, expected] : cases) {
    Gguf file = small("llama");
    change(file);
    EXPECT_NE(refusal(file).find(expected), std::string::npos) << expected << "\n" << refusal(file);
  }
  Gguf mixture = small_mixture();
  mixture.add("blk.0.ffn_up_exps.weight", {2, 6, 8}, 0);
  EXPECT_NE(refusal(mixture).find("expected the matrices of 3 experts"), std::string::npos);
  mixture = small_mixture();
  mixture.set("llama.expert_used_count", 4u);
  EXPECT_NE(refusal(mixture).find("4 experts per token of 3"), std::string::npos);
  mixture = small_mixture();
  mixture.values.erase("llama.expert_count");
  EXPECT_NE(refusal(mixture).find("no expert_count"), std::string::npos) << refusal(mixture);
  mixture = small_mixture();
  mixture.tensors.erase("blk.0.ffn_gate_exps.weight");
  EXPECT_NE(refusal(mixture).find("layer 0 has a router but no experts"), std::string::npos) << refusal(mixture);
}

// Blocks stay as they are, under our names: merged experts are taken apart.
TEST_F(GgufModel, KeepsBlocksAsTheyAre) {
  Gguf file = small("llama");
  file.set("llama.embedding_length", 32u);
  file.set("llama.feed_forward_length", 64u);
  file.set("llama.expert_count", 3u);
  file.set("llama.expert_used_count", 2u);
  file.tensors.clear();
  // `blocks`: 32 elements each, all bytes zero but the scale.
  const auto blocks = [&](const std::string& name, const Shape& shape, std::uint32_t type, std::size_t bytes) {
    file.add(name, shape, 0);
    Gguf::Entry& entry = file.tensors[name];
    entry.type = type;
    entry.blocks.assign(entry.data.size() / 32 * bytes, '\0');
  };
  file.add("token_embd.weight", {10, 32}, 0);
  for (const char* norm : {"output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"}) file.add(norm, {32}, 1);
  blocks("blk.0.attn_q.weight", {32, 32}, 3, 20);  // Q4_1
  blocks("blk.0.attn_k.weight", {16, 32}, 8, 34);  // Q8_0
  file.add("blk.0.attn_v.weight", {16, 32}, 0);
  blocks("blk.0.attn_output.weight", {32, 32}, 6, 22);  // Q5_0
  file.add("blk.0.ffn_gate_inp.weight", {3, 32}, 0);
  file.add("blk.0.ffn_gate_exps.weight", {3, 64, 32}, 0);
  blocks("blk.0.ffn_up_exps.weight", {3, 64, 32}, 2, 18);  // Q4_0
  file.add("blk.0.ffn_down_exps.weight", {3, 32, 64}, 0);
  const Model model = open(file);
  const auto holds = [&](const std::string& name, const char* type, unsigned code_bits, double bits) {
    ASSERT_TRUE(model.tensors.contains(name)) << name;
    const Tensor& tensor = model.tensors.at(name);
    ASSERT_EQ(tensor.encoding, Encoding::Ggml) << name;
    EXPECT_TRUE(tensor.sections.contains(type)) << name;
    EXPECT_EQ(ggml_code_bits(tensor), code_bits) << name;
    EXPECT_EQ(8 * static_cast<double>(tensor.stored_bytes()), bits * static_cast<double>(tensor.elements())) << name;
  };
  holds("model.layers.0.self_attn.q_proj.weight", "Q4_1", 4, 5);
  holds("model.layers.0.self_attn.k_proj.weight", "Q8_0", 8, 8.5);
  holds("model.layers.0.self_attn.o_proj.weight", "Q5_0", 5, 5.5);
  for (const char* expert : {"0", "1", "2"}) holds("model.layers.0.block_sparse_moe.experts." + std::string(expert) + ".w3.weight", "Q4_0", 4, 4.5);
}

}  // namespace
}  // namespace miq
