// miq-generate, and what run-eval measures of generation and within a budget, as a user meets them.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "miq/formats/mapped_file.h"
#include "miq/model/model.h"
#include "tests/model/small_model.h"
#include "tests/tools/byte_tokenizer.h"
#include "tests/tools/command_outcome.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

using test::Outcome;

class GenerateCommand : public testing::Test {
 protected:
  void SetUp() override {
    work_ = fs::path(testing::TempDir()) / ("miq_generate_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(work_);
    fs::create_directories(work_);
    Config config;
    config.architecture = "llama";
    config.vocabulary = 256;
    config.hidden = 32;
    config.max_positions = 100;
    config.layers = {{4, 2, 8, 48}, {4, 2, 8, 48}};
    config.tied_head = true;
    Model model = test::small_model(config).model;
    model.files["tokenizer.json"] = Blob(std::string_view(tokenizer_));
    model.tokenizer = load_tokenizer(model.files, "small");
    save_model(model, (work_ / "small.miq").string());
    std::ofstream text(work_ / "text.txt");
    for (int i = 0; i < 60; ++i) text << "Sentence number " << i * i << " says little, but says it well.\n";
  }
  void TearDown() override { fs::remove_all(work_); }

  Outcome run(const std::string& command) const { return test::run_command(work_, command); }

  const std::string tokenizer_ = test::byte_tokenizer();
  fs::path work_;
};

TEST_F(GenerateCommand, WritesOnTheSameAtAnyNumberOfThreads) {
  const Outcome one = run("miq-generate small.miq --prompt 'Once upon' --max-new-tokens 20 --dtype float32 --threads 1");
  ASSERT_EQ(one.code, 0) << one.err;
  EXPECT_GT(one.out.size(), 10u);
  EXPECT_EQ(one.out.back(), '\n');
  EXPECT_NE(one.err.find("tokens"), std::string::npos) << one.err;
  const Outcome two = run("miq-generate small.miq -p 'Once upon' -n 20 --dtype float32 --threads 3 --quiet");
  EXPECT_EQ(two.out, one.out);
  EXPECT_EQ(two.err, "");
  EXPECT_EQ(run("miq-generate small.miq -p 'Once upon' -n 20 --dtype float32 --echo").out, "Once upon" + one.out);
  EXPECT_EQ(run("miq-generate small.miq -p 'Once upon' -n 0").out, "\n");
}

TEST_F(GenerateCommand, TheSameSeedGivesTheSameText) {
  const std::string command = "miq-generate small.miq -p x -n 30 --temperature 1.2 --top-k 100 --top-p 0.95 --seed ";
  const Outcome first = run(command + "1");
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_EQ(run(command + "1 --threads 1").out, first.out);
  EXPECT_NE(run(command + "2").out, first.out);
}

TEST_F(GenerateCommand, MistakesAreNamed) {
  const Outcome long_prompt = run("miq-generate small.miq --prompt " + std::string(100, 'a'));
  EXPECT_EQ(long_prompt.code, 1);
  EXPECT_NE(long_prompt.err.find("the prompt has 100 tokens, but the model ends at 100"), std::string::npos) << long_prompt.err;
  EXPECT_EQ(run("miq-generate small.miq --prompt ''").code, 1);
  EXPECT_EQ(run("miq-generate small.miq").code, 2);
  EXPECT_EQ(run("miq-generate small.miq -p x --temperature -1").code, 2);
  EXPECT_EQ(run("miq-generate small.miq -p x --top-p 0").code, 2);
  EXPECT_EQ(run("miq-generate absent.miq -p x").code, 1);
}

TEST_F(GenerateCommand, RunEvalMeasuresGenerationAndMultiplications) {
  const Outcome outcome = run("run-eval small.miq --metrics speed,params -o report.json");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json model = parse_json(read_text_file((work_ / "report.json").string()), "report.json").at("models").at(0);
  const Json& generation = model.at("generation");
  EXPECT_EQ(generation.at("prompt"), 80);  // the model ends at 100
  EXPECT_EQ(generation.at("new_tokens"), 20);
  EXPECT_EQ(generation.at("shortened"), true);
  EXPECT_GT(generation.at("load_seconds"), 0);
  EXPECT_EQ(generation.at("weight_bytes"), 4 * (256 * 32 + 2 * (32 * 32 * 2 + 2 * 16 * 32 + 3 * 48 * 32 + 2 * 32) + 32));
  EXPECT_EQ(generation.at("cache_bytes"), 2 * 2 * 100 * 2 * 8 * 4);
  ASSERT_EQ(generation.at("runs").size(), 2u);
  for (const Json& measured : generation.at("runs")) {
    EXPECT_GT(measured.at("tokens_per_second"), 0);
    EXPECT_NEAR(measured.at("ms_per_token").get<double>() * measured.at("tokens_per_second").get<double>(), 1000 * measured.at("batch").get<double>(), 1e-3);
  }
  EXPECT_EQ(model.at("macs").at("products"), 256 * 32 + 2 * (32 * 32 * 2 + 2 * 16 * 32 + 3 * 48 * 32));
  EXPECT_NE(outcome.out.find("gen. tok/s"), std::string::npos) << outcome.out;
}

TEST_F(GenerateCommand, RunEvalKeepsToABudgetAndGivesTheSameFigures) {
  const std::string command = "run-eval small.miq --metrics ppl --no-cache --dataset t=text.txt --seqlen 50 --threads 2 -o report.json ";
  const auto losses = [&](const std::string& options) {
    const Outcome outcome = run(command + options);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return parse_json(read_text_file((work_ / "report.json").string()), "report.json").at("models").at(0).at("perplexity").at("t").at("window_nll");
  };
  const Json all = losses("");
  EXPECT_GT(all.size(), 30u);
  const Outcome refused = run(command + "--memory 10kB");
  EXPECT_EQ(refused.code, 1);
  EXPECT_NE(refused.err.find("--memory"), std::string::npos) << refused.err;
  EXPECT_NE(refused.err.find("embedding"), std::string::npos) << refused.err;
  EXPECT_EQ(run(command + "--memory much").code, 2);
  // What the message asks for is enough.
  const std::size_t stated = refused.err.find("it takes ");
  ASSERT_NE(stated, std::string::npos) << refused.err;
  const int megabytes = static_cast<int>(std::stod(refused.err.substr(stated + 9))) + 2;
  EXPECT_EQ(losses("--memory " + std::to_string(megabytes) + "MB"), all);
}

}  // namespace
}  // namespace miq
