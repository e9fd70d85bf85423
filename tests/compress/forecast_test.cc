// What a run says beforehand against what it then makes.
#include <gtest/gtest.h>

#include "miq/compress/compress.h"
#include "miq/compress/forecast.h"
#include "tests/model/small_model.h"

namespace miq {
namespace {

struct Case {
  const char* method;
  double sparsity;
  int wbits;
  std::int64_t group_size;
  double tolerance;  // 0: exact
  int scale_bits = 16;
};

Config config() {
  Config config;
  config.architecture = "llama";
  config.vocabulary = 80;
  config.hidden = 96;
  config.max_positions = 64;
  config.layers = {{4, 2, 24, 160}, {4, 4, 24, 96}};
  config.tied_head = true;
  return config;
}

TEST(Forecast, SizesAreThoseOfTheResult) {
  const Model model = test::small_model(config(), DType::BF16, 1, 0.8f).model;
  Calibration calibration;
  for (std::uint32_t w = 0; w < 8; ++w) calibration.windows.push_back(test::random_ids(32, 80, w));
  ThreadPool pool(2);
  for (const Case& c : {Case{"sparsegpt", 0, 4, 0, 0}, Case{"gptq", 0, 3, 16, 0}, Case{"rtn", 0, 3, 20, 0}, Case{"rtn", 0, 8, 0, 0}, Case{"sparsegpt", 0.5, 0, 0, 0.01},
                        Case{"magnitude", 0.5, 0, 0, 0.01}, Case{"sparsegpt", 0.5, 4, 0, 0.02}, Case{"mixed", 0, 4, 16, 0.02}, Case{"gptq", 0, 3, 16, 0, 8}, Case{"rtn", 0, 4, 0, 0, 5}, Case{"mixed", 0, 4, 16, 0.02, 6}, Case{"mi", 0.4, 3, 16, 0.03}, Case{"enhanced", 0, 4, 0, 0.05}}) {
    CompressOptions options;
    options.method = c.method;
    options.compute = ComputeType::Float32;
    if (c.sparsity > 0) options.sparsity = c.sparsity;
    if (c.wbits) options.wbits = c.wbits;
    if (c.group_size) options.group_size = c.group_size;
    options.scale_bits = c.scale_bits;
    if (!c.wbits) options.scale_bits.reset();
    const Recipe recipe = resolve(options, model.config);
    const Rates rates = measure_rates(model, 32, recipe, pool);
    const Forecast expected = forecast(model, calibration, recipe, rates);
    EXPECT_EQ(expected.output.exact, c.tolerance == 0) << c.method;
    const CompressResult result = compress(model, calibration, recipe, pool);
    std::uint64_t found = 0;
    for (const auto& [name, tensor] : result.model.tensors) found += tensor.stored_bytes();
    EXPECT_NEAR(static_cast<double>(expected.output.total()), static_cast<double>(found), c.tolerance * static_cast<double>(found)) << c.method << " " << c.wbits << " " << c.sparsity;
    EXPECT_GT(expected.seconds(), 0) << c.method;
    EXPECT_LT(expected.seconds(), 60) << c.method;
    const std::string text = forecast_text(expected, calibration, recipe);
    EXPECT_NE(text.find(c.tolerance == 0 ? "output    0." : "output    about 0."), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace miq
