// Our own way back through a layer against LibTorch's autograd of the same layer in float32.
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <map>

#include "miq/model/bf16_product.h"
#include "miq/model/forward.h"
#include "tests/model/small_model.h"

namespace miq {
namespace {

using test::odd_config;
using test::random_ids;
using test::small_model;
using test::SmallModel;

struct Gradients {
  at::Tensor input;
  std::map<std::string, at::Tensor, std::less<>> outputs;
};

Gradients gradients(const ForwardPass& pass, std::int64_t layer, const at::Tensor& hidden, const at::Tensor& gradient) {
  Gradients result;
  result.input = pass.backward_layer(pass.load_layer(layer), hidden, gradient,
                                     [&](std::string_view name, const at::Tensor& g) { result.outputs[std::string(name)] = g.to(at::kFloat); });
  return result;
}

double relative(const at::Tensor& a, const at::Tensor& b) { return ((a - b).norm() / b.norm()).item().toDouble(); }

// Layers of whole tiles, of odd pieces, with shared keys and with windows.
TEST(Bf16Backward, IsThatOfAutograd) {
  Config config = odd_config();
  config.layers = {{6, 2, 10, 54}, {3, 3, 6, 30}, {4, 1, 64, 128}, {4, 2, 16, 66}};
  config.layers[3].window = 21;
  config.hidden = 70;
  const SmallModel small = small_model(config, DType::BF16);
  const ForwardPass exact(small.model, ComputeType::Float32), own(small.model, ComputeType::BFloat16),
      portable(small.model, ComputeType::BFloat16, Kernels::Portable);
  at::Generator generator = at::detail::createCPUGenerator(5);
  for (const std::int64_t tokens : {1, 7, 12, 33, 130, 200}) {
    at::Tensor hidden = exact.embed(random_ids(tokens, config.vocabulary, 3));
    for (std::int64_t layer = 0; layer < exact.layers(); ++layer) {
      const at::Tensor gradient = at::randn({tokens, config.hidden}, generator, at::kFloat);
      const Gradients want = gradients(exact, layer, hidden, gradient), got = gradients(own, layer, hidden, gradient),
                      rounded = gradients(portable, layer, hidden, gradient);
      const std::string at = "layer " + std::to_string(layer) + ", " + std::to_string(tokens) + " tokens";
      EXPECT_LT(relative(got.input, want.input), 0.015) << at;
      ASSERT_EQ(got.outputs.size(), want.outputs.size());
      for (const auto& [name, g] : want.outputs) {
        const at::Tensor& mine = got.outputs.at(name);
        ASSERT_EQ(mine.sizes(), g.sizes());
        if (g.norm().item().toDouble() < 1e-4) {  // one token: queries and keys do not matter
          EXPECT_LT(mine.norm().item().toDouble(), 1e-4) << name;
          continue;
        }
        const double error = relative(mine, g);
        EXPECT_LT(error, 0.03) << name << ", " << at;
        EXPECT_LT(error, 1.5 * relative(rounded.outputs.at(name), g) + 0.002) << name << ", " << at;
      }
      hidden = exact.run_layer(exact.load_layer(layer), hidden);
    }
  }
}

TEST(Bf16Backward, GradientsOfTensorsAreThoseOfAutograd) {
  Config config = odd_config();
  config.layers = {{6, 2, 10, 54}, {4, 1, 64, 128}};
  config.hidden = 70;
  const SmallModel small = small_model(config, DType::BF16);
  const ForwardPass exact(small.model, ComputeType::Float32), own(small.model, ComputeType::BFloat16);
  at::Generator generator = at::detail::createCPUGenerator(5);
  const at::Tensor hidden = exact.embed(random_ids(130, config.vocabulary, 3)), gradient = at::randn({130, 70}, generator, at::kFloat);
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    std::vector<std::string> names;
    for (const LayerTensor& tensor : layer_tensors(config, layer)) names.push_back(tensor.name);
    ASSERT_EQ(names.size(), 9u);
    const auto tensors = [&](const ForwardPass& pass, std::span<const std::string> some) {
      Gradients result;
      result.input = pass.backward_tensors(pass.load_layer(layer), hidden, gradient, some,
                                           [&](std::string_view name, const at::Tensor& g) { result.outputs[std::string(name)] = g.to(at::kFloat); });
      return result;
    };
    const Gradients want = tensors(exact, names), got = tensors(own, names);
    ASSERT_EQ(got.outputs.size(), names.size());
    EXPECT_LT(relative(got.input, want.input), 0.015);
    for (const auto& [name, g] : want.outputs) EXPECT_LT(relative(got.outputs.at(name), g), 0.03) << name << " " << layer;
    std::vector<std::string> norms;
    for (const std::string& name : names) {
      if (name.find("norm") != std::string::npos) norms.push_back(name);
    }
    const Gradients some = tensors(own, norms);
    ASSERT_EQ(some.outputs.size(), 2u);
    for (const auto& [name, g] : some.outputs) EXPECT_TRUE(g.equal(got.outputs.at(name)));
  }
}

// Whichever way leads back.
TEST(Bf16Backward, WhatTheLinearsReadIsShownBeforeAnyGradient) {
  Config config = odd_config();
  config.layers = {{6, 2, 10, 54}};
  config.hidden = 70;
  const SmallModel small = small_model(config, DType::BF16);
  for (const ComputeType type : {ComputeType::Float32, ComputeType::BFloat16}) {
    const ForwardPass pass(small.model, type);
    const LayerWeights weights = pass.load_layer(0);
    const at::Tensor hidden = pass.embed(random_ids(33, config.vocabulary, 3));
    std::map<InputPlace, at::Tensor> want, got;
    pass.observe_layer(weights, hidden, [&](InputPlace place, const at::Tensor& input) { want[place] = input.clone(); });
    std::size_t shown = 0;
    pass.backward_layer(weights, hidden, hidden, [&](std::string_view, const at::Tensor&) { shown += got.size() == want.size(); },
                        [&](InputPlace place, const at::Tensor& input) { got[place] = input.clone(); });
    EXPECT_EQ(shown, 7u);
    ASSERT_EQ(got.size(), 4u);
    for (const auto& [place, input] : want) EXPECT_TRUE(got.at(place).equal(input));
  }
}

TEST(Bf16Backward, IsTheSameEveryTime) {
  if (!have_bf16_kernels()) GTEST_SKIP() << "this processor has no AVX512-BF16";
  Config config = odd_config();
  config.layers = {{6, 2, 10, 54}};
  config.hidden = 70;
  const SmallModel small = small_model(config, DType::BF16);
  const ForwardPass pass(small.model, ComputeType::BFloat16);
  const LayerWeights weights = pass.load_layer(0);
  const at::Tensor hidden = pass.embed(random_ids(65, config.vocabulary, 3)), gradient = hidden.flip({0}).contiguous();
  const at::Tensor once = pass.backward_layer(weights, hidden, gradient, {});
  pass.backward_layer(weights, hidden.narrow(0, 0, 40), gradient.narrow(0, 0, 40), {});  // leaves other numbers in the buffers
  EXPECT_TRUE(once.equal(pass.backward_layer(weights, hidden, gradient, {})));
}

}  // namespace
}  // namespace miq
