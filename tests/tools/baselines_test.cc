// The baselines against the original SparseGPT, Wanda and magnitude code, in float32, on two models:
// the story model, calibrated on the first 32 windows of 256 of tiny.utf8 and evaluated on its first 40;
// a small OPT, calibrated on the first 64 windows of 256 of wiki.utf8 and evaluated on 64 of WikiText-2.
// The figures are those of the original tools (../shared/data/README.md).
#include <gtest/gtest.h>

#include <filesystem>

#include "miq/compress/compress.h"
#include "miq/converters/open_model.h"
#include "miq/evaluate/perplexity.h"
#include "miq/evaluate/texts.h"

namespace miq {
namespace {

struct Setting {
  const char *model, *calibration_name, *calibration, *test_name, *test;
  std::int64_t calibration_windows, test_windows;
};
constexpr Setting kStory{"models/story", "tiny", "tinystories/tiny.utf8", "tiny", "tinystories/tiny.utf8", 32, 40};
constexpr Setting kOpt{"models/opt-small", "wiki", "wiki/wiki.utf8", "wikitext2", "wikitext2/wiki.test.raw", 64, 64};

struct Baseline {
  const char* name;
  const char* method;
  double sparsity;
  int n, m, wbits;
  double perplexity, tolerance;
  const Setting* setting = &kStory;
};

void PrintTo(const Baseline& baseline, std::ostream* out) { *out << baseline.name; }

class Baselines : public testing::TestWithParam<Baseline> {};

TEST_P(Baselines, MatchTheOriginalTools) {
  const std::string data = MIQ_SOURCE_DIR "/../shared/data/";
  const Baseline& baseline = GetParam();
  const Setting& setting = *baseline.setting;
  if (!std::filesystem::exists(data + setting.model + "/config.json")) GTEST_SKIP() << "no shared data at " << data;
  const Model model = open_model(data + setting.model);
  const Text text = load_text(setting.calibration_name, data + setting.calibration),
             test = load_text(setting.test_name, data + setting.test);
  ThreadPool pool;
  CalibrationOptions sampling;
  sampling.sampling = Sampling::InOrder;
  sampling.windows = setting.calibration_windows;
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
  settings.windows = setting.test_windows;
  WalkStatistics statistics;
  const double perplexity = measure_perplexity(forward, {test}, settings, pool, {}, statistics).front().summary.perplexity;
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

// Rounded weights take another code where the last bit of a sum differs, and so does all that follows: damping of 0.00999 or 0.01001 instead of 0.01 moves
// the OPT at 4 bits by up to 0.3 %, in any version. Hence 1 % wherever Hessians decide on codes.
INSTANTIATE_TEST_SUITE_P(Opt, Baselines,
                         testing::Values(Baseline{"SparseGpt50", "sparsegpt", 0.5, 0, 0, 0, 373.724, 0.001, &kOpt},
                                         Baseline{"SparseGpt50At4Bits", "sparsegpt", 0.5, 0, 0, 4, 375.871, 0.01, &kOpt},
                                         Baseline{"SparseGpt4Bits", "sparsegpt", 0, 0, 0, 4, 366.173, 0.01, &kOpt},
                                         Baseline{"SparseGpt3Bits", "sparsegpt", 0, 0, 0, 3, 368.354, 0.01, &kOpt},
                                         Baseline{"Wanda50", "wanda", 0.5, 0, 0, 0, 396.310, 0.001, &kOpt},
                                         Baseline{"Magnitude50", "magnitude", 0.5, 0, 0, 0, 391.187, 0.001, &kOpt}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace miq
