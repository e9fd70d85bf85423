// Matrices that cannot be solved, at the commands: a layer whose attention reads nothing but zeros (its norm has no gain) and an expert that no
// token reaches. The run is done all the same, with exit code 3; the fallbacks are counted and named on the terminal and in the container.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "miq/formats/safetensors.h"
#include "miq/model/model.h"
#include "tests/model/small_model.h"
#include "tests/tools/byte_tokenizer.h"
#include "tests/tools/command_outcome.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

const char* const kMethods[] = {"sparsegpt --wbits 4", "enhanced --target-avg-bits 4", "mi --target-avg-bits 4 --group-size 16", "mixed --target-avg-bits 4 --group-size 16",
                                "mi --target-avg-bits 4 --sparsity 0.5 --group-size 16", "mixed --target-bpw 4.5 --sparsity 0.5 --group-size 16"};

using test::Outcome;
using test::slurp;
using test::write_text;

class Fallbacks : public testing::Test {
 protected:
  void SetUp() override {
    work_ = fs::path(testing::TempDir()) / ("miq_fallbacks_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(work_);
    fs::create_directories(work_ / "model");
    std::string text;
    for (int i = 0; i < 400; ++i) text += "Sentence number " + std::to_string(i * i) + " says little, but says it well.\n";
    write_text(work_ / "text.txt", text);
  }
  void TearDown() override { fs::remove_all(work_); }

  // `change` sees the floats of every tensor.
  void make_dense(const Json& more, const std::function<void(const std::string& name, std::vector<float>&)>& change) {
    Json json{{"model_type", "llama"}, {"vocab_size", 256}, {"hidden_size", 32}, {"intermediate_size", 48}, {"num_hidden_layers", 2}, {"num_attention_heads", 4},
              {"num_key_value_heads", 2}, {"rms_norm_eps", 1e-5}, {"max_position_embeddings", 128}, {"tie_word_embeddings", true}, {"hidden_act", "silu"}};
    json.update(more);
    const Model model = test::small_model(config_from_hugging_face(json, "config")).model;
    std::vector<SafetensorsLayout> layout;
    std::string data;
    for (const auto& [name, tensor] : model.tensors) {
      const std::string_view bytes = tensor.sections.at("data").text();
      std::vector<float> values(bytes.size() / 4);
      std::memcpy(values.data(), bytes.data(), bytes.size());
      change(name, values);
      layout.push_back({name, tensor.dtype, tensor.shape});
      data.append(reinterpret_cast<const char*>(values.data()), bytes.size());
    }
    write_text(work_ / "model" / "model.safetensors", safetensors_header(layout, {}) + data);
    write_text(work_ / "model" / "config.json", json.dump());
    write_text(work_ / "model" / "tokenizer.json", test::byte_tokenizer());
    const Outcome outcome = run("convert-checkpoint model -o dense.miq");
    ASSERT_EQ(outcome.code, 0) << outcome.err;
  }

  Outcome run(const std::string& command) const { return test::run_command(work_, command); }

  // Every method ends with exit code 3 and names exactly the matrices whose name holds one of `parts`, `count` of them, with `why`.
  void expect_fallbacks(const std::set<std::string>& parts, int count, const std::string& why, const std::string& warning) const {
    for (const std::string method : kMethods) {
      SCOPED_TRACE(method);
      const Outcome outcome = run("miq-compress dense.miq text.txt -o out.miq --documents whole --sampling in-order --nsamples 6 --seqlen 64 --dtype float32 --method " + method);
      ASSERT_EQ(outcome.code, 3) << outcome.err;
      EXPECT_NE(outcome.err.find(std::to_string(count) + " " + warning), std::string::npos) << outcome.err;
      int lines = 0;
      for (std::size_t at = 0; (at = outcome.err.find(why, at)) != std::string::npos; ++at) ++lines;
      EXPECT_EQ(lines, count) << outcome.err;
      EXPECT_EQ(run("inspect-checkpoint out.miq --verify").code, 0);
      const Model made = load_model((work_ / "out.miq").string());
      EXPECT_EQ(made.statistics.value("fallbacks", 0), count);
      int named = 0;
      for (const Json& matrix : made.statistics.at("matrices")) {
        const std::string name = matrix["name"];
        const bool hit = std::any_of(parts.begin(), parts.end(), [&](const std::string& part) { return name.find(part) != name.npos; });
        EXPECT_EQ(matrix.contains("fallback"), hit) << matrix;
        named += matrix.contains("fallback");
      }
      EXPECT_EQ(named, count);
      for (const auto& [name, tensor] : made.tensors) {
        ASSERT_EQ(tensor.dtype, DType::F32);
        const Blob bytes = decode(tensor, name);
        std::vector<float> values(bytes.size() / 4);
        std::memcpy(values.data(), bytes.bytes().data(), bytes.size());
        EXPECT_TRUE(std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) << name;
      }
    }
  }
  fs::path work_;
};

TEST_F(Fallbacks, AnInputOfZerosIsRoundedCountedAndNamed) {
  make_dense(Json::object(), [](const std::string& name, std::vector<float>& values) {
    if (name.find("layers.1.input_layernorm") != name.npos) std::fill(values.begin(), values.end(), 0.0f);
  });
  // q, k and v read zeros, so what o reads are zeros too.
  expect_fallbacks({"layers.1.self_attn."}, 4, "(no factorisation: rounded to nearest)", "matrices could not be solved and were rounded to nearest");
  // run-eval takes what was made; compare-methods says so with the run's name, and ends alike.
  EXPECT_EQ(run("run-eval out.miq --dataset text=text.txt --seqlen 64 --windows 2 --dtype float32").code, 0);
  const Outcome outcome = run("compare-methods dense.miq text.txt --eval text.txt --eval-seqlen 64 --eval-windows 2 --documents whole --sampling in-order --nsamples 6 --seqlen 64 "
                              "--dtype float32 --wbits 4 --methods gptq --run 'mi=mi --group-size 16' -o both");
  EXPECT_EQ(outcome.code, 3) << outcome.err;
  EXPECT_NE(outcome.err.find("mi: 4 matrices were rounded to nearest"), std::string::npos) << outcome.err;
}

TEST_F(Fallbacks, AnExpertThatNoTokenReachesIsRoundedCountedAndNamed) {
  make_dense({{"model_type", "mixtral"}, {"num_local_experts", 5}, {"num_experts_per_tok", 2}}, [](const std::string& name, std::vector<float>& values) {
    if (name.find("layers.0.") == name.npos || name.find("gate.weight") == name.npos) return;
    // Rows v, -v, u, -u, 0 of the router: two of the first four are above 0, so no token goes to the last expert.
    for (std::size_t j = 0; j < 32; ++j) values[32 + j] = -values[j], values[96 + j] = -values[64 + j], values[128 + j] = 0;
  });
  expect_fallbacks({"layers.0.block_sparse_moe.experts.4."}, 3, "(no token reached this expert: rounded to nearest)", "matrices of experts that no calibration token reached");
}

}  // namespace
}  // namespace miq
