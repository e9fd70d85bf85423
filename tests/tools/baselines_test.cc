// The baselines against the original SparseGPT, Wanda and magnitude code on the story model: calibrated on the
// first 32 windows of 256 of tiny.utf8, evaluated on its first 40 windows of 256, float32. The figures are those
// of the checkpoints that the original tools left (../shared/data/README.md).
#include <gtest/gtest.h>

#include <filesystem>

#include "miq/compress/compress.h"
#include "miq/converters/open_model.h"
#include "miq/evaluate/perplexity.h"
#include "miq/evaluate/texts.h"

namespace miq {
namespace {

struct Baseline {
  const char* name;
  const char* method;
  double sparsity;
  int n, m, wbits;
  double perplexity, tolerance;
};

void PrintTo(const Baseline& baseline, std::ostream* out) { *out << baseline.name; }

class Baselines : public testing::TestWithParam<Baseline> {};

TEST_P(Baselines, MatchTheOriginalTools) {
  const std::string data = MIQ_SOURCE_DIR "/../shared/data/";
  if (!std::filesystem::exists(data + "models/story/model.safetensors")) GTEST_SKIP() << "no shared data at " << data;
  const Baseline& baseline = GetParam();
  const Model model = open_model(data + "models/story");
  const Text text = load_text("tiny", data + "tinystories/tiny.utf8");
  ThreadPool pool;
  CalibrationOptions sampling;
  sampling.sampling = Sampling::InOrder;
  sampling.windows = 32;
  sampling.seqlen = 256;
  const Calibration calibration = sample_windows(text.content, text.name, *model.tokenizer, model.config, sampling);

  CompressOptions options;
  options.method = baseline.method;
  if (baseline.m == 0) options.sparsity = baseline.sparsity;
  options.prune_n = baseline.n;
  options.prune_m = baseline.m;
  if (baseline.wbits) options.wbits = baseline.wbits;
  options.compute = ComputeType::Float32;
  const CompressResult result = compress(model, calibration, resolve(options, model.config), pool);

  const ForwardPass forward(result.model, ComputeType::Float32);
  PerplexityOptions settings;
  settings.seqlen = 256;
  settings.windows = 40;
  WalkStatistics statistics;
  const double perplexity = measure_perplexity(forward, {text}, settings, pool, {}, statistics).front().summary.perplexity;
  RecordProperty("perplexity", std::to_string(perplexity));
  EXPECT_NEAR(perplexity, baseline.perplexity, baseline.tolerance * baseline.perplexity);
}

INSTANTIATE_TEST_SUITE_P(Story, Baselines,
                         testing::Values(Baseline{"SparseGpt50", "sparsegpt", 0.5, 0, 0, 0, 67.923, 0.01},
                                         Baseline{"SparseGpt50At4Bits", "sparsegpt", 0.5, 0, 0, 4, 72.568, 0.01},
                                         Baseline{"SparseGpt3Bits", "sparsegpt", 0, 0, 0, 3, 57.783, 0.01},
                                         Baseline{"SparseGpt2Of4At4Bits", "sparsegpt", 0.5, 2, 4, 4, 115.276, 0.01},
                                         Baseline{"Wanda50", "wanda", 0.5, 0, 0, 0, 83.043, 0.001},
                                         Baseline{"Magnitude50", "magnitude", 0.5, 0, 0, 0, 93.410, 0.001}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace miq
