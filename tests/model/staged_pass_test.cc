// A layer in stages is the layer: for every family, in both compute types, by our own kernels and by LibTorch's.
#include "miq/model/staged_pass.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include <ATen/ops/equal.h>

#include "tests/model/small_families.h"

namespace miq {
namespace {

using Inputs = std::map<InputPlace, at::Tensor>;

InputObserver into(Inputs& inputs) {
  return [&](InputPlace place, const at::Tensor& input) { inputs[place] = input.clone(); };
}

void expect_equal(const Inputs& wanted, const Inputs& got, const std::string& what) {
  ASSERT_EQ(wanted.size(), got.size()) << what;
  for (const auto& [place, input] : wanted) EXPECT_TRUE(at::equal(input, got.at(place))) << what << " site " << static_cast<int>(place.site) << " expert " << place.expert;
}

void check(const Config& config, ComputeType type, const std::string& what) {
  const test::SmallModel small = test::small_model(config);
  const ForwardPass forward(small.model, type);
  const StagedPass staged(forward);
  at::Tensor hidden = forward.embed(test::random_ids(23, config.vocabulary, 5));
  for (std::int64_t l = 0; l < forward.layers(); ++l) {
    const LayerWeights layer = forward.load_layer(l);
    Inputs wanted, got;
    const at::Tensor output = forward.run_layer(layer, hidden, into(wanted));
    if (config.layers[static_cast<std::size_t>(l)].identity) continue;
    StagedWindow window{hidden, {}};
    for (InputSite site : kInputSites) {
      staged.reach(layer, site, window);
      Inputs twice;
      staged.show(layer, site, window, into(got));
      staged.show(layer, site, window, into(twice));
      for (const auto& [place, input] : twice) EXPECT_EQ(place.site, site) << what;
    }
    staged.finish(layer, window);
    expect_equal(wanted, got, what);
    EXPECT_TRUE(at::equal(output, window.stream)) << what << " layer " << l;
    hidden = output;
  }
}

TEST(StagedPass, IsTheLayerInEveryFamily) {
  for (const auto& [name, config] : test::families()) {
    check(config, ComputeType::Float32, name + " float32");
    check(config, ComputeType::BFloat16, name + " bfloat16");
  }
}

TEST(StagedPass, IsTheLayerOnOurOwnKernels) {
  Config config = test::family("llama");
  config.hidden = 48;
  config.layers.assign(2, {4, 2, 12, 96});
  check(config, ComputeType::BFloat16, "llama of even sizes");
  config = test::family("qwen3");
  config.query_key_norm = true;
  config.hidden = 48;
  config.layers.assign(2, {4, 2, 12, 96});
  config.layers[1].window = 7;
  check(config, ComputeType::BFloat16, "qwen3 of even sizes");
}

}  // namespace
}  // namespace miq
