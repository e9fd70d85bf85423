// SmolLM2-135M-Instruct from its GGUF against the original implementation: transformers in float32 gives 22.88230
// on the first 16 windows of 1,024 tokens of WikiText-2, and the tokenizer makes 304,978 tokens of the whole text.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "miq/converters/open_model.h"
#include "miq/evaluate/perplexity.h"
#include "miq/evaluate/texts.h"

namespace miq {
namespace {

constexpr double kOriginal = 22.88230;

double measure(const Model& model, const Text& text, ComputeType type, std::int64_t& text_tokens) {
  ThreadPool pool;
  const ForwardPass forward(model, type);
  PerplexityOptions settings;
  settings.seqlen = 1024;
  settings.windows = 16;
  WalkStatistics statistics;
  const Perplexity result = measure_perplexity(forward, {text}, settings, pool, {}, statistics).front();
  text_tokens = result.text_tokens;
  return result.summary.perplexity;
}

TEST(RealModel, SmolLm2IsEvaluatedAsTheOriginalIs) {
  const std::string gguf = MIQ_TEST_GGUF, wikitext = MIQ_SOURCE_DIR "/../shared/data/wikitext2/wiki.test.raw";
  if (!std::filesystem::exists(gguf)) GTEST_SKIP() << "no model at '" << gguf << "'; tools/setup --model gets it";
  if (!std::filesystem::exists(wikitext)) GTEST_SKIP() << "no shared data at " << wikitext;
  const Model model = open_model(gguf);
  const Text text = load_text("wikitext2", wikitext);
  std::int64_t text_tokens = 0;
  EXPECT_NEAR(measure(model, text, ComputeType::Float32, text_tokens) / kOriginal, 1, 1e-4);
  EXPECT_EQ(text_tokens, 304'978);
  EXPECT_NEAR(measure(model, text, ComputeType::BFloat16, text_tokens) / kOriginal, 1, 5e-3);
}

}  // namespace
}  // namespace miq
