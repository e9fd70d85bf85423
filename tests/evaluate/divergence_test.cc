// Divergence between small models against its definition over the reference forward pass, and what happens where two
// models cannot be compared.
#include "miq/evaluate/divergence.h"

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "miq/base/error.h"
#include "miq/evaluate/measure_texts.h"
#include "miq/evaluate/token_lines.h"
#include "tests/evaluate/toy.h"
#include "tests/reference/divergence_reference.h"

namespace miq {
namespace {

using test::SmallModel;
using test::toy_text;

SmallModel made(std::uint32_t seed, DType dtype = DType::F32, Config config = test::odd_config()) {
  SmallModel result = test::small_model(config, dtype, seed);
  result.model.tokenizer = std::make_shared<test::ByteTokenizer>(100);
  result.model.config.eos_id = 2;
  return result;
}

DivergenceReference reference_of(const SmallModel& small, ComputeType type = ComputeType::Float32) {
  return {"dense", std::make_shared<const Model>(small.model), type, ScratchFolder(testing::TempDir())};
}

PerplexityOptions windows_of(std::int64_t seqlen, const char* protocol = "gptq") {
  PerplexityOptions options;
  options.seqlen = seqlen;
  options.protocol = protocol;
  return options;
}

TextMeasures compare(DivergenceReference& reference, const Model& model, const std::vector<Text>& texts, const PerplexityOptions& options,
                     int threads = 2, ComputeType type = ComputeType::Float32) {
  const ForwardPass forward(model, type);
  ThreadPool pool(threads);
  WalkStatistics walk;
  return measure_texts(forward, texts, options, {&reference, nullptr, {}, false}, pool, {}, walk);
}

TEST(Divergence, OfRowsIsThatOfTheDefinition) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 4);
  for (const std::int64_t vocabulary : {1, 7, 16, 37, 1003}) {
    const std::int64_t rows = 20;
    reference::Matrix a(rows, vocabulary), b(rows, vocabulary);
    std::vector<float> x, y;
    for (std::size_t i = 0; i < a.data.size(); ++i) {
      const float value = normal(random), near = value + 0.1f * normal(random) + 30;  // a common shift changes nothing
      x.push_back(value);
      y.push_back(near);
      a.data[i] = static_cast<double>(value);
      b.data[i] = static_cast<double>(near);
    }
    TokenDivergence found;
    token_divergence(x.data(), y.data(), rows, vocabulary, found);
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto p = reference::distribution(a, r), q = reference::distribution(b, r);
      const double expected = reference::divergence(p, q);
      EXPECT_NEAR(static_cast<double>(found.divergence[static_cast<std::size_t>(r)]), expected, 1e-6 + 1e-5 * expected);
      EXPECT_EQ(found.same_top[static_cast<std::size_t>(r)],
                std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin() ? 1 : 0);
    }
  }
}

TEST(Divergence, FarLogitsAndBadOnesDoNotOverflow) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> a{0, 1000, -1000, 0, 0, 0}, b{1000, 0, -1000, infinity, nan, 0};
  TokenDivergence found;
  token_divergence(a.data(), b.data(), 2, 3, found);
  EXPECT_FLOAT_EQ(found.divergence[0], 1000);
  EXPECT_TRUE(std::isnan(found.divergence[1]));
  const std::vector<float> c{0, 1, 2}, d{nan, 1, 0};
  token_divergence(c.data(), d.data(), 1, 3, found);
  EXPECT_TRUE(std::isnan(found.divergence[2]));
  token_divergence(c.data(), c.data(), 1, 3, found);
  EXPECT_EQ(found.divergence[3], 0);
}

TEST(Divergence, OfTwoModelsIsThatOfTheDefinition) {
  const SmallModel dense = made(1), other = made(2);
  const std::vector<Text> texts{toy_text(70), toy_text(95, "second")};
  for (const char* protocol : {"gptq", "llama.cpp"}) {
    DivergenceReference reference = reference_of(dense);
    const TextMeasures measures = compare(reference, other.model, texts, windows_of(16, protocol));
    for (std::size_t t = 0; t < texts.size(); ++t) {
      auto ids = other.model.tokenizer->encode(texts[t].content, true);
      const bool half = protocol == std::string("llama.cpp");
      if (half) {
        for (std::size_t begin = 0; begin < ids.size(); begin += 16) ids[begin] = 100;
      }
      const auto expected = reference::divergences(dense.oracle, other.oracle, ids, 16, half ? 8 : 0);
      const Divergence& found = measures.divergence[t];
      ASSERT_FALSE(found.failed()) << found.failure;
      EXPECT_EQ(found.tokens, static_cast<std::int64_t>(expected.tokens.size()));
      EXPECT_NEAR(found.mean / expected.mean(expected.tokens), 1, 1e-4);
      EXPECT_NEAR(found.maximum / *std::max_element(expected.tokens.begin(), expected.tokens.end()), 1, 1e-4);
      EXPECT_DOUBLE_EQ(found.same_top, expected.same_top);
      EXPECT_NEAR(found.loss_correlation, expected.loss_correlation(), 1e-4);
      EXPECT_NEAR(found.log_ratio, expected.mean(expected.loss_q) - expected.mean(expected.loss_p), 1e-4);
      auto sorted = expected.tokens;
      std::sort(sorted.begin(), sorted.end());
      EXPECT_LE(sorted[(sorted.size() - 1) / 2], found.median * 1.0001);
      EXPECT_GE(sorted[sorted.size() / 2], found.median * 0.9999);
      EXPECT_LE(found.median, found.percentile_90);
      EXPECT_LE(found.percentile_90, found.percentile_99);
    }
  }
}

TEST(Divergence, OfAModelFromItselfIsZeroAndItsLossesAreAsWithout) {
  const SmallModel dense = made(1, DType::BF16), other = made(2, DType::BF16);
  for (const ComputeType type : {ComputeType::Float32, ComputeType::BFloat16}) {
    DivergenceReference reference = reference_of(dense, type);
    const TextMeasures measures = compare(reference, dense.model, {toy_text(80)}, windows_of(20), 2, type);  // another Model object
    EXPECT_EQ(measures.divergence[0].mean, 0);
    EXPECT_EQ(measures.divergence[0].maximum, 0);
    EXPECT_EQ(measures.divergence[0].same_top, 1);
    EXPECT_EQ(measures.divergence[0].log_ratio, 0);
    const ForwardPass forward(other.model, type);
    ThreadPool pool(2);
    WalkStatistics walk;
    const auto plain = measure_perplexity(forward, {toy_text(80)}, windows_of(20), pool, {}, walk);
    EXPECT_EQ(compare(reference, other.model, {toy_text(80)}, windows_of(20), 2, type).perplexity[0].summary.window_nll, plain[0].summary.window_nll);
  }
}

TEST(Divergence, IsTheSameBitsForAnyThreadsAndBatchesAndWhoeverWalkedTheReference) {
  const SmallModel dense = made(1), other = made(2);
  std::vector<Divergence> seen;
  for (const int threads : {1, 3}) {
    for (const std::uint64_t bytes : {std::uint64_t{1}, std::uint64_t{1} << 30}) {
      for (const bool measured : {false, true}) {
        DivergenceReference reference = reference_of(dense);
        PerplexityOptions options = windows_of(24);
        options.walk.activation_bytes = bytes;
        ThreadPool pool(threads);
        WalkStatistics walk;
        if (measured) measure_texts(reference.forward(), {toy_text(200)}, options, {&reference, nullptr, {}, false}, pool, {}, walk);
        seen.push_back(compare(reference, other.model, {toy_text(200)}, options, threads).divergence[0]);
      }
    }
  }
  for (const Divergence& found : seen) {
    EXPECT_EQ(found.mean, seen[0].mean);
    EXPECT_EQ(found.percentile_99, seen[0].percentile_99);
    EXPECT_EQ(found.loss_correlation, seen[0].loss_correlation);
    EXPECT_EQ(found.log_ratio_error, seen[0].log_ratio_error);
  }
}

TEST(Divergence, LogitsAreNotRoundedToBfloat16) {
  Config even = test::odd_config();
  even.hidden = 36;
  for (const Config& config : {even, test::odd_config()}) {  // our own kernels, where they exist, and LibTorch's
    const SmallModel dense = made(3, DType::BF16, config);
    const ForwardPass forward(dense.model, ComputeType::BFloat16);
    const at::Tensor x = forward.head_input(forward.embed(std::vector<std::int32_t>{5, 6, 7}));
    const at::Tensor z = forward.exact_logits(x);
    const reference::Matrix& head = *dense.oracle.global(Role::Head);
    const at::Tensor wide = x.to(at::kFloat).contiguous();
    ASSERT_EQ(z.size(1), head.rows);
    for (std::int64_t t = 0; t < 3; ++t) {
      for (std::int64_t i = 0; i < head.rows; ++i) {
        double expected = 0, size = 0;
        for (std::int64_t k = 0; k < head.cols; ++k) {
          const double term = static_cast<double>(wide.const_data_ptr<float>()[t * head.cols + k]) * head.at(i, k);
          expected += term;
          size += std::fabs(term);
        }
        EXPECT_NEAR(static_cast<double>(z.const_data_ptr<float>()[t * head.rows + i]), expected, 1e-6 * size);
      }
    }
  }
}

TEST(Divergence, ModelsThatCannotBeComparedAreNamedWithTheReason) {
  const SmallModel dense = made(1);
  DivergenceReference reference = reference_of(dense);
  SmallModel other = made(2);
  other.model.tokenizer = std::make_shared<test::ByteTokenizer>(99);  // puts another token in front
  const TextMeasures measures = compare(reference, other.model, {toy_text(70), toy_text(3, "short")}, windows_of(16));
  EXPECT_TRUE(measures.divergence[0].failed());
  EXPECT_FALSE(measures.divergence[0].comparable);
  EXPECT_NE(measures.divergence[0].failure.find("other tokens than the reference dense"), std::string::npos) << measures.divergence[0].failure;
  EXPECT_FALSE(measures.perplexity[0].failed());
  EXPECT_NE(measures.divergence[1].failure.find("needs 16"), std::string::npos) << measures.divergence[1].failure;

  Config wider = test::odd_config();
  wider.vocabulary = 120;
  const SmallModel padded = made(2, DType::F32, wider);
  EXPECT_NE(compare(reference, padded.model, {toy_text(70), toy_text(3, "short")}, windows_of(16)).divergence[0].failure.find("another vocabulary"),
            std::string::npos);
}

TEST(Divergence, LinesOfTokensHoldWhatWasMeasured) {
  const SmallModel dense = made(1), other = made(2);
  DivergenceReference reference = reference_of(dense);
  const ForwardPass forward(other.model, ComputeType::Float32);
  ThreadPool pool(2);
  WalkStatistics walk;
  const TextMeasures measures = measure_texts(forward, {toy_text(40, "a \"text\"")}, windows_of(16), {&reference, nullptr, {}, true}, pool, {}, walk);
  const std::string lines = token_lines("one", measures);
  std::size_t begin = 0;
  for (std::size_t w = 0; w < 2; ++w) {
    const std::size_t end = lines.find('\n', begin);
    const Json line = parse_json(std::string_view(lines).substr(begin, end - begin), "line");
    begin = end + 1;
    EXPECT_EQ(line.at("text"), "a \"text\"");
    EXPECT_EQ(line.at("begin"), 16 * w);
    ASSERT_EQ(line.at("losses").size(), 15u);
    for (std::size_t i = 0; i < 15; ++i) {
      EXPECT_EQ(line.at("losses")[i].get<float>(), measures.losses[0][w][i]);
      EXPECT_EQ(line.at("divergence")[i].get<float>(), measures.tokens[0][w].divergence[i]);
      EXPECT_EQ(line.at("targets")[i].get<std::int32_t>(), measures.plans[0].tokens[16 * w + i + 1]);
    }
  }
  EXPECT_EQ(begin, lines.size());
}

TEST(Divergence, NeedsAFolderThatExists) {
  EXPECT_THROW(ScratchFolder("/no/such/folder"), Error);
}

TEST(Divergence, PercentilesAndErrorsAreThoseOfTheTokens) {
  WindowPlan plan;
  plan.tokens = {0, 1, 2, 3, 9, 5};
  plan.windows = {{0, 3, 0}, {3, 3, 0}};
  plan.ignored_target = 9;
  const std::vector<TokenDivergence> tokens{{{1, 2}, {1, 0}}, {{100, 6}, {0, 1}}};
  const std::vector<std::vector<float>> mine{{1, 2}, {50, 6}}, theirs{{1, 1}, {7, 2}};
  const Divergence found = summarise_divergence(plan, tokens, mine, theirs);  // the token with target 9 does not count
  EXPECT_EQ(found.tokens, 3);
  EXPECT_DOUBLE_EQ(found.mean, 3);
  EXPECT_DOUBLE_EQ(found.standard_error, std::sqrt((4.0 + 1 + 9) / 2 / 3));
  EXPECT_DOUBLE_EQ(found.median, 2);
  EXPECT_DOUBLE_EQ(found.percentile_90, 0.2 * 2 + 0.8 * 6);
  EXPECT_DOUBLE_EQ(found.maximum, 6);
  EXPECT_DOUBLE_EQ(found.same_top, 2.0 / 3);
  EXPECT_DOUBLE_EQ(found.log_ratio, 5.0 / 3);
}

}  // namespace
}  // namespace miq
