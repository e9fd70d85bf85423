// Guesses about checkpoints of the original tools, and about small models made here.
#include "miq/converters/recognise.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>

#include "miq/converters/encode.h"
#include "miq/converters/open_model.h"
#include "miq/model/architecture.h"
#include "tests/converters/lattice_inputs.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kData = MIQ_SOURCE_DIR "/../shared/data/";

Json recognised(const std::string& folder) {
  ThreadPool pool(2);
  return recognise(open_model(kData + folder), pool);
}

TEST(Recognise, CheckpointsOfTheOriginalTools) {
  if (!fs::exists(std::string(kData) + "checkpoints")) GTEST_SKIP() << "no ../shared/data/checkpoints";
  const std::map<std::string, std::string> methods{
      {"checkpoints/sparsegpt-50", "sparsegpt"},   {"checkpoints/sparsegpt-50-4bit", "sparsegpt"},
      {"checkpoints/sparsegpt-3bit", "quantized"}, {"checkpoints/sparsegpt-2of4-4bit", "n:m"},
      {"checkpoints/wanda-50", "wanda"},           {"checkpoints/magnitude-50", "magnitude"},
      {"checkpoints/mixed-bits", "sparse"},        {"models/story", "dense"}};
  for (const auto& [folder, method] : methods) EXPECT_EQ(recognised(folder).at("method"), method) << folder;
  EXPECT_EQ(recognised("checkpoints/sparsegpt-2of4-4bit").at("n_m"), (Json{{"n", 2}, {"m", 4}}));
  EXPECT_EQ(recognised("checkpoints/sparsegpt-50-4bit").at("quantization"),
            (Json{{"matrices", 14}, {"of", 14}, {"bits", "4"}, {"sharing", "row"}}));
  EXPECT_EQ(recognised("checkpoints/mixed-bits").at("quantization").at("bits"), "3+4+6+8");
  // 5 % were pruned; three times as many were rounded to zero.
  EXPECT_NEAR(recognised("checkpoints/mixed-bits").at("pruned").get<double>(), 0.05, 0.02);
  EXPECT_LT(recognised("checkpoints/sparsegpt-3bit").at("pruned").get<double>(), 0.03);
}

TEST(Recognise, ZerosWithoutALatticeAreNamed) {
  if (!fs::exists(std::string(kData) + "checkpoints/sparsegpt-50")) GTEST_SKIP() << "no ../shared/data/checkpoints";
  ThreadPool pool(2);
  Model model = open_model(std::string(kData) + "checkpoints/sparsegpt-50");
  Json result = recognise(model, pool);
  ASSERT_EQ(result.at("warnings").size(), 1u);
  EXPECT_NE(result["warnings"][0].get<std::string>().find("if this checkpoint was meant to be quantized"), std::string::npos);
  // With a claim, in the name or in a file beside the weights, it is said more strongly.
  model.name = "opt-125m-enhanced-4bit";
  result = recognise(model, pool);
  EXPECT_NE(result.at("warnings")[0].get<std::string>().find("the quantization had no effect"), std::string::npos);
  EXPECT_NE(result.at("claim").get<std::string>().find("4 bits"), std::string::npos);
  model.name = "model";
  const fs::path folder = fs::path(testing::TempDir()) / "miq_recognise_claim";
  fs::create_directories(folder);
  std::ofstream(folder / "recipe.json") << R"({"run": [{"sparsity": 0.5, "target_avg_bits": 4.0}]})";
  std::ofstream(folder / "broken.json") << R"({"bits": )";
  EXPECT_EQ(recognise(model, pool, folder.string()).at("claim"), "recipe.json states 4 bits");
  fs::remove_all(folder);
  for (const char* plain : {"llama-2-7b", "sparse-50", "v4", "model-8b", "opt-6.7b", "wanda-2of4", "raw4"}) {
    model.name = plain;
    EXPECT_FALSE(recognise(model, pool).contains("claim")) << plain;
  }
}

TEST(Recognise, PackedModelsShowTheirOwnLattices) {
  if (!fs::exists(std::string(kData) + "checkpoints/sparsegpt-2of4-4bit")) GTEST_SKIP() << "no ../shared/data/checkpoints";
  ThreadPool pool(2);
  Model model = open_model(std::string(kData) + "checkpoints/sparsegpt-2of4-4bit");
  const Json before = recognise(model, pool);
  encode_model(model, EncodePolicy::Auto, pool);
  EXPECT_EQ(recognise(model, pool), before);
}

// One layer of random weights; `change` sees every linear.
Model random_model(const std::function<void(std::vector<float>&, std::int64_t rows, std::int64_t cols)>& change) {
  Model model;
  model.name = "random";
  model.config = config_from_hugging_face({{"model_type", "llama"},
                                           {"vocab_size", 10},
                                           {"hidden_size", 256},
                                           {"intermediate_size", 384},
                                           {"num_hidden_layers", 2},
                                           {"num_attention_heads", 4},
                                           {"num_key_value_heads", 4},
                                           {"rms_norm_eps", 1e-5},
                                           {"max_position_embeddings", 64},
                                           {"tie_word_embeddings", true}},
                                          "test");
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 0.02f);
  for (const ExpectedTensor& expected : expected_tensors(model.config)) {
    std::int64_t elements = 1;
    for (const std::int64_t d : expected.shape) elements *= d;
    std::vector<float> values(static_cast<std::size_t>(elements));
    for (float& value : values) value = normal(random);
    if (expected.linear) change(values, expected.shape[0], expected.shape[1]);
    Tensor tensor = matrix_of(values, 1, elements, DType::F32);
    tensor.shape = expected.shape;
    model.tensors[expected.name] = tensor;
  }
  return model;
}

std::string method_of(const std::function<void(std::vector<float>&, std::int64_t, std::int64_t)>& change) {
  ThreadPool pool(2);
  return recognise(random_model(change), pool).at("method");
}

TEST(Recognise, MadeModels) {
  std::mt19937 random(6);
  EXPECT_EQ(method_of([](auto&, auto, auto) {}), "dense");
  EXPECT_EQ(method_of([&](auto& values, auto, auto) {
              for (float& value : values) value = random() % 2 ? value : 0.0f;
            }),
            "sparse");
  EXPECT_EQ(method_of([&](auto& values, auto, auto) {  // very sparse: runs of 16 have zeros by chance
              for (float& value : values) value = random() % 10 == 0 ? value : 0.0f;
            }),
            "sparse");
  EXPECT_EQ(method_of([&](auto& values, auto, auto) {
              for (float& value : values) value = std::abs(value) < 0.0135f ? 0.0f : value;
            }),
            "magnitude");
  EXPECT_EQ(method_of([&](auto& values, std::int64_t rows, std::int64_t cols) {  // 4:8
              for (std::int64_t i = 0; i < rows * cols; i += 8) {
                for (int j : {1, 2, 4, 7}) values[static_cast<std::size_t>(i + j)] = 0;
              }
            }),
            "n:m");
  EXPECT_EQ(method_of([&](auto& values, std::int64_t rows, std::int64_t cols) {  // a tenth of each row, anywhere
              for (std::int64_t r = 0; r < rows; ++r) {
                for (std::int64_t left = cols / 10; left > 0;) {
                  float& value = values[static_cast<std::size_t>(r * cols) + random() % static_cast<unsigned>(cols)];
                  left -= value != 0;
                  value = 0;
                }
              }
            }),
            "wanda");
}

TEST(Recognise, BlocksWithAnOffsetAreNamed) {
  std::mt19937 random(7);
  ThreadPool pool(2);
  const Model model = random_model([&](auto& values, auto, auto) {  // GGUF's Q4_1: y = d * q + m
    for (std::size_t i = 0; i < values.size(); i += 32) {
      const float d = f16_to_f32(static_cast<std::uint16_t>(0x2000 + random() % 0x400)),
                  m = f16_to_f32(static_cast<std::uint16_t>(0xAC00 + random() % 0x400));
      for (std::size_t j = i; j < i + 32; ++j) values[j] = d * static_cast<float>(random() % 16) + m;
    }
  });
  const Json result = recognise(model, pool);
  EXPECT_EQ(result.at("method"), "dense");
  EXPECT_EQ(result.at("blocks"), (Json{{"columns", 32}, {"values", 16}}));
  EXPECT_NE(result.at("guess").get<std::string>().find("Q4_1"), std::string::npos);
}

TEST(Recognise, OddModels) {
  ThreadPool pool(2);
  EXPECT_EQ(recognise(random_model([](auto& values, auto, auto) { std::ranges::fill(values, 0.0f); }), pool).at("sparsity"), 1.0);
  EXPECT_EQ(recognise(random_model([](auto& values, auto, auto) { values[0] = std::nanf(""); }), pool).at("method"), "dense");
  Model empty = random_model([](auto&, auto, auto) {});
  empty.tensors.clear();
  EXPECT_EQ(recognise(empty, pool).at("method"), "dense");
}

}  // namespace
}  // namespace miq
