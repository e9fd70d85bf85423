// Windows on a toy tokenizer, and whole perplexities against a naive loop over the reference forward pass.
#include "miq/evaluate/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "miq/base/error.h"
#include "tests/evaluate/toy.h"
#include "tests/reference/perplexity_reference.h"

namespace miq {
namespace {

using test::toy_model;
using test::toy_text;

TEST(Protocol, GptqDropsTheTailAndScoresAllButTheFirst) {
  const auto toy = toy_model(100);
  const WindowPlan plan = plan_windows(protocol("gptq"), toy.model, toy_text(39), 16, 0);
  EXPECT_EQ(plan.text_tokens, 40);  // the special token in front counts
  ASSERT_EQ(plan.windows.size(), 2u);
  EXPECT_EQ(plan.windows[1].begin, 16u);
  EXPECT_EQ(plan.windows[1].first, 0);
  EXPECT_EQ(plan.tokens[0], 100);
  EXPECT_NE(plan.tokens[16], 100);
  EXPECT_EQ(plan_windows(protocol("gptq"), toy.model, toy_text(39), 16, 1).windows.size(), 1u);
}

TEST(Protocol, LlamaCppOverwritesTheFirstTokenAndScoresTheSecondHalf) {
  const auto toy = toy_model(100);
  const WindowPlan plan = plan_windows(protocol("llama.cpp"), toy.model, toy_text(50), 16, 0);
  ASSERT_EQ(plan.windows.size(), 3u);
  for (const Window& window : plan.windows) {
    EXPECT_EQ(plan.tokens[window.begin], 100);
    EXPECT_EQ(window.first, 8);
  }
  // Without a BOS in the vocabulary nothing is overwritten.
  const auto plain = toy_model();
  const WindowPlan untouched = plan_windows(protocol("llama.cpp"), plain.model, toy_text(50), 16, 0);
  EXPECT_EQ(untouched.tokens, plain.model.tokenizer->encode(toy_text(50).content, true));
  EXPECT_THROW(plan_windows(protocol("llama.cpp"), toy.model, toy_text(30), 16, 0), Error);
}

TEST(Protocol, BlocksKeepTheShortLastWindow) {
  const auto toy = toy_model();
  EXPECT_EQ(plan_windows(protocol("blocks-128"), toy.model, toy_text(130), 128, 0).windows.back().length, 2u);
  // A single token predicts nothing.
  EXPECT_EQ(plan_windows(protocol("blocks-128"), toy.model, toy_text(129), 128, 0).windows.size(), 1u);
}

TEST(Protocol, Exllamav3PutsNothingInFrontAndWantsATokenBehindEachWindow) {
  const auto toy = toy_model(100);
  const WindowPlan plan = plan_windows(protocol("exllamav3"), toy.model, toy_text(48), 16, 0);
  EXPECT_EQ(plan.tokens, toy.model.tokenizer->encode(toy_text(48).content, false));
  EXPECT_EQ(plan.windows.size(), 2u);  // nothing follows the third
  EXPECT_EQ(plan_windows(protocol("exllamav3"), toy.model, toy_text(49), 16, 0).windows.size(), 3u);
  EXPECT_EQ(plan_windows(protocol("exllamav3"), toy.model, toy_text(500), 4, 0).windows.size(), 100u);
  EXPECT_EQ(plan_windows(protocol("exllamav3"), toy.model, toy_text(500), 4, 110).windows.size(), 110u);
  EXPECT_THROW(plan_windows(protocol("exllamav3"), toy.model, toy_text(16), 16, 0), Error);
}

TEST(Protocol, SliceGptLeavesOutTheModelsPadding) {
  auto toy = toy_model();
  const auto ignored = [&] { return plan_windows(protocol("slicegpt"), toy.model, toy_text(100), 16, 0).ignored_target; };
  EXPECT_EQ(ignored(), 2);  // the Llama adapter's: the end of text
  toy.model.config.architecture = "opt";
  EXPECT_EQ(ignored(), 1);
  for (const auto& [config, id] : std::initializer_list<std::pair<const char*, std::optional<std::int32_t>>>{
           {"{}", 1}, {R"({"pad_token_id":5})", 5}, {R"({"pad_token_id":0})", std::nullopt}, {R"({"pad_token_id":null})", std::nullopt}, {"[", 1}}) {
    toy.model.files["config.json"] = Blob(std::string_view(config));
    EXPECT_EQ(ignored(), id) << config;
  }
  toy.model.config.architecture = "qwen2";
  EXPECT_THROW(ignored(), Error);
}

TEST(Protocol, OddRequestsAreRefusedByName) {
  EXPECT_THROW(protocol("perplexed"), UsageError);
  EXPECT_THROW(window_length(protocol("gptq"), test::odd_config(), 5000), UsageError);
  EXPECT_THROW(window_length(protocol("gptq"), test::odd_config(), 1), UsageError);
  EXPECT_EQ(window_length(protocol("gptq"), test::odd_config(), 0), 2048);
  EXPECT_EQ(window_length(protocol("llama.cpp"), test::odd_config(), 0), 512);
  auto toy = toy_model();
  EXPECT_THROW(plan_windows(protocol("gptq"), toy.model, toy_text(10), 16, 0), Error);
  toy.model.tokenizer = nullptr;
  EXPECT_THROW(plan_windows(protocol("gptq"), toy.model, toy_text(100), 16, 0), Error);
}

class PerplexityOf : public testing::TestWithParam<const char*> {};

TEST_P(PerplexityOf, EqualsTheNaiveLoop) {
  const auto toy = toy_model(100);
  const ForwardPass forward(toy.model, ComputeType::Float32);
  const std::vector<Text> texts{toy_text(70), toy_text(95, "other")};
  ThreadPool pool(2);
  WalkStatistics walk;
  PerplexityOptions options;
  options.protocol = GetParam();
  options.seqlen = 16;
  const auto results = measure_perplexity(forward, texts, options, pool, {}, walk);
  ASSERT_EQ(results.size(), 2u);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    ASSERT_FALSE(results[i].failed()) << results[i].failure;
    const auto ids = toy.model.tokenizer->encode(texts[i].content, GetParam() != std::string("exllamav3"));
    const double expected = reference::perplexity(toy.oracle, ids, 16, GetParam(), 100, 2);
    EXPECT_NEAR(results[i].summary.perplexity / expected, 1, 1e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(AllProtocols, PerplexityOf, testing::Values("gptq", "slicegpt", "llama.cpp", "exllamav3", "blocks-128"),
                         [](const auto& test_case) { return "Case" + std::to_string(test_case.index); });

TEST(Perplexity, IsTheSameBitsForAnyThreadsAndBatches) {
  const auto toy = toy_model(100, DType::BF16);
  const ForwardPass forward(toy.model, ComputeType::BFloat16);
  std::vector<std::vector<double>> seen;
  for (int threads : {1, 3}) {
    for (std::uint64_t bytes : {std::uint64_t{1}, std::uint64_t{1} << 30}) {
      ThreadPool pool(threads);
      WalkStatistics walk;
      PerplexityOptions options;
      options.seqlen = 24;
      options.walk.activation_bytes = bytes;
      seen.push_back(measure_perplexity(forward, {toy_text(200)}, options, pool, {}, walk).front().summary.window_nll);
      EXPECT_EQ(walk.tokens, 8 * 24);
    }
  }
  for (const auto& losses : seen) EXPECT_EQ(losses, seen.front());
}

TEST(Perplexity, ALossThatIsNotFiniteFailsThatTextOnly) {
  auto toy = toy_model(100);
  // Token 42 ('*' in the byte tokenizer) gets an embedding that is not a number.
  const Tensor& embedding = toy.model.tensors.at("model.embed_tokens.weight");
  auto bytes = decode(embedding, "embedding").bytes();
  std::vector<std::uint8_t> changed(bytes.begin(), bytes.end());
  const float bad = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(changed.data() + 42 * 37 * sizeof bad, &bad, sizeof bad);
  toy.model.tensors.at("model.embed_tokens.weight") = dense_tensor(DType::F32, {101, 37}, Blob(std::move(changed)));
  const ForwardPass forward(toy.model, ComputeType::Float32);
  Text poisoned = toy_text(64, "poisoned");
  poisoned.content[40] = '*';
  ThreadPool pool(2);
  WalkStatistics walk;
  PerplexityOptions options;
  options.seqlen = 16;
  const auto results = measure_perplexity(forward, {toy_text(64), poisoned, toy_text(3, "short")}, options, pool, {}, walk);
  EXPECT_FALSE(results[0].failed());
  EXPECT_NE(results[1].failure.find("window 3 of 4"), std::string::npos) << results[1].failure;
  EXPECT_NE(results[2].failure.find("needs 16"), std::string::npos) << results[2].failure;
}

TEST(Perplexity, StandardErrorsAreThoseOfTheProtocol) {
  WindowPlan plan;
  plan.tokens = {0, 1, 2, 3, 4, 5};
  plan.windows = {{0, 3, 0}, {3, 3, 0}};
  const std::vector<std::vector<float>> losses{{1, 3}, {3, 5}};
  const Summary windows = summarise(protocol("gptq"), plan, losses);
  EXPECT_DOUBLE_EQ(windows.mean_nll, 3);
  EXPECT_DOUBLE_EQ(windows.standard_error, std::exp(3.0) * 1);  // deviation sqrt(2) over sqrt(2) windows
  const Summary tokens = summarise(protocol("llama.cpp"), plan, losses);
  EXPECT_DOUBLE_EQ(tokens.standard_error, std::exp(3.0) * std::sqrt(2.0 / 3));  // variance 2 over count - 1
}

TEST(Perplexity, MarksTheTextThatCalibrated) {
  auto toy = toy_model();
  Text text = toy_text(10);
  EXPECT_FALSE(was_calibrated_on(toy.model, text));
  toy.model.calibration["text"] = text.digest;
  EXPECT_TRUE(was_calibrated_on(toy.model, text));
  text.digest = "prepared otherwise";
  EXPECT_TRUE(was_calibrated_on(toy.model, text));
  text.source_digest = "another file";
  EXPECT_FALSE(was_calibrated_on(toy.model, text));
}

}  // namespace
}  // namespace miq
