// Sliced models and deleted layers through the decoder, against the naive reference.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>

#include "miq/model/bf16_layer.h"
#include "miq/model/forward.h"
#include "tests/model/small_model.h"
#include "tests/model/small_sliced.h"
#include "tests/reference/sliced_reference.h"

namespace miq {
namespace {

using test::random_ids;
using test::sliced_config;
using test::small_model;

at::Tensor all_logits(const ForwardPass& pass, const std::vector<std::int32_t>& ids) {
  at::Tensor hidden = pass.embed(ids);
  for (std::int64_t layer = 0; layer < pass.layers(); ++layer) hidden = pass.run_layer(pass.load_layer(layer), hidden);
  return pass.logits(hidden);
}

std::vector<float> values_of(const at::Tensor& tensor) {
  const at::Tensor plain = tensor.contiguous();
  return {plain.const_data_ptr<float>(), plain.const_data_ptr<float>() + plain.numel()};
}

struct Case {
  const char* architecture;
  std::int64_t head;
};

class Sliced : public testing::TestWithParam<Case> {};

TEST_P(Sliced, MatchesTheReference) {
  const Config config = sliced_config(GetParam().architecture, GetParam().head);
  for (const std::uint32_t seed : {1u, 2u, 3u}) {
    const test::SmallModel small = small_model(config, DType::F32, seed);
    validate(small.model);
    const reference::SlicedForward oracle{config, small.oracle.weights};
    const ForwardPass pass(small.model, ComputeType::Float32);
    for (const std::int64_t tokens : {1, 2, 31, 64}) {
      const auto ids = random_ids(tokens, config.vocabulary, seed);
      const reference::Matrix expected = oracle.logits(ids);
      const at::Tensor got = all_logits(pass, ids);
      ASSERT_EQ(got.numel(), static_cast<std::int64_t>(expected.data.size()));
      double largest = 0, difference = 0;
      for (std::size_t i = 0; i < expected.data.size(); ++i) {
        largest = std::max(largest, std::abs(expected.data[i]));
        difference = std::max(difference, std::abs(got.const_data_ptr<float>()[i] - expected.data[i]));
      }
      EXPECT_LT(difference, 1e-5 * largest) << "tokens " << tokens << " seed " << seed;
    }
  }
}

TEST_P(Sliced, RunsInBFloat16) {
  const Config config = sliced_config(GetParam().architecture, GetParam().head);
  const test::SmallModel small = small_model(config, DType::BF16);
  const auto ids = random_ids(40, config.vocabulary, 5);
  const std::vector<float> exact = values_of(all_logits(ForwardPass(small.model, ComputeType::Float32), ids));
  const std::vector<float> rounded = values_of(all_logits(ForwardPass(small.model, ComputeType::BFloat16), ids));
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    difference += std::pow(exact[i] - rounded[i], 2);
    norm += std::pow(exact[i], 2);
  }
  EXPECT_LT(std::sqrt(difference), 0.05 * std::sqrt(norm));
}

// d loss / d hidden through rotations and fused norms, against differences of the losses.
TEST_P(Sliced, GradientsAreThoseOfTheLosses) {
  const Config config = sliced_config(GetParam().architecture, GetParam().head);
  const test::SmallModel small = small_model(config);
  const ForwardPass pass(small.model, ComputeType::Float32);
  const auto ids = random_ids(6, config.vocabulary, 9);
  const LayerWeights layer = pass.load_layer(1);
  const at::Tensor hidden = pass.run_layer(pass.load_layer(0), pass.embed(ids));
  const auto loss = [&](const at::Tensor& x) {
    double sum = 0;
    for (const float value : pass.losses(pass.run_layer(layer, x), ids)) sum += value;
    return sum;
  };
  const std::vector<float> gradient =
      values_of(pass.backward_layer(layer, hidden, pass.loss_gradient(pass.run_layer(layer, hidden), ids), {}));
  for (const std::int64_t place : {0, 17, 60, 140}) {
    const at::Tensor up = hidden.clone(), down = hidden.clone();
    up.data_ptr<float>()[place] += 1e-2f;
    down.data_ptr<float>()[place] -= 1e-2f;
    EXPECT_NEAR((loss(up) - loss(down)) / 2e-2, gradient[static_cast<std::size_t>(place)], 5e-3) << place;
  }
}

TEST_P(Sliced, SurvivesTheContainer) {
  const Config config = sliced_config(GetParam().architecture, GetParam().head);
  const Config read = Config::from_json(config.to_json(), "test");
  EXPECT_EQ(read.to_json(), config.to_json());
  EXPECT_EQ(read.layers, config.layers);
  EXPECT_TRUE(read.sliced);
  EXPECT_EQ(read.norm, NormKind::FusedRms);
  EXPECT_EQ(head_width(read), GetParam().head);
}

INSTANTIATE_TEST_SUITE_P(Families, Sliced, testing::Values(Case{"llama", 40}, Case{"llama", 27}, Case{"opt", 40}, Case{"opt", 27}),
                         [](const auto& test) {
                           return std::string(test.param.architecture) + (test.param.head == 40 ? "" : "SlicedHead");
                         });

TEST(DeletedLayer, HandsItsInputOn) {
  Config config = test::odd_config();
  LayerConfig deleted;
  deleted.identity = true;
  Config with = config;
  with.layers.insert(with.layers.begin() + 1, deleted);
  const Config read = Config::from_json(with.to_json(), "test");
  EXPECT_EQ(read.layers, with.layers);
  test::SmallModel small = small_model(config);
  Model model = small.model;
  model.config = with;
  model.tensors.clear();
  for (const auto& [name, tensor] : small.model.tensors) {
    // Layers behind the deleted one keep the numbers that they had.
    std::string moved = name;
    for (const int layer : {2, 1}) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      if (moved.starts_with(prefix)) {
        moved = "model.layers." + std::to_string(layer + 1) + "." + moved.substr(prefix.size());
        break;
      }
    }
    model.tensors.emplace(moved, tensor);
  }
  validate(model);
  const auto ids = random_ids(20, config.vocabulary, 3);
  for (const ComputeType type : {ComputeType::Float32, ComputeType::BFloat16}) {
    EXPECT_EQ(values_of(all_logits(ForwardPass(model, type), ids)), values_of(all_logits(ForwardPass(small.model, type), ids)));
  }
}

// Our own kernels want even widths; those above are odd.
TEST(SlicedKernels, AreNearTheReferenceAndIndependentOfOtherRows) {
  if (!have_bf16_kernels()) GTEST_SKIP() << "this CPU has no AVX512-BF16";
  for (const std::int64_t head : {40, 26}) {
    Config config = sliced_config("llama", head);
    config.layers[0].input = 28, config.layers[0].middle = 30, config.layers[0].output = config.layers[1].input = 26, config.layers[1].middle = 34;
    for (const LayerConfig& layer : config.layers) ASSERT_TRUE(Bf16Layer::supports(config, layer));
    for (const DType stored : {DType::BF16, DType::F32}) {
      const test::SmallModel small = small_model(config, stored);
      const ForwardPass exact(small.model, ComputeType::Float32), own(small.model, ComputeType::BFloat16), portable(small.model, ComputeType::BFloat16, Kernels::Portable);
      const auto ids = random_ids(60, config.vocabulary, 5);
      const auto distance = [](const at::Tensor& a, const at::Tensor& b) { return ((a - b).norm() / b.norm()).item().toDouble(); };
      at::Tensor a = exact.embed(ids), b = own.embed(ids), c = portable.embed(ids), alone = b.narrow(0, 0, 20);
      for (std::int64_t layer = 0; layer < 2; ++layer) {
        const LayerWeights weights = own.load_layer(layer);
        ASSERT_NE(weights.packed, nullptr);
        a = exact.run_layer(exact.load_layer(layer), a), b = own.run_layer(weights, b), c = portable.run_layer(portable.load_layer(layer), c);
        alone = own.run_layer(weights, alone);
        EXPECT_LT(distance(b, a), 1.2 * distance(c, a) + 0.001);
        EXPECT_TRUE(b.narrow(0, 0, 20).equal(alone));
      }
      const auto expected = exact.losses(a, ids), got = own.losses(b, ids);
      ASSERT_EQ(got.size(), expected.size());
      double mean = 0;
      for (std::size_t i = 0; i < got.size(); ++i) mean += (got[i] - expected[i]) / static_cast<double>(got.size());
      EXPECT_LT(std::abs(mean), 0.02);
    }
  }
}

TEST(SlicedKernels, RotationsKeepTheStreamsDigits) {
  if (!have_bf16_kernels()) GTEST_SKIP() << "this CPU has no AVX512-BF16";
  const at::Generator generator = at::detail::createCPUGenerator(3);
  for (const auto& [in, out] : {std::pair<std::int64_t, std::int64_t>{2, 2}, {46, 70}, {130, 96}}) {
    const at::Tensor q = at::randn({in, out}, generator, at::kFloat), x = at::randn({29, in}, generator, at::kFloat), got = at::empty({29, out});
    const Rotation rotation(q);
    rotation.carry(x.const_data_ptr<float>(), 29, got.data_ptr<float>());
    const at::Tensor expected = x.to(at::kDouble).matmul(q.to(at::kDouble));
    EXPECT_LT(((got - expected).norm() / expected.norm()).item().toDouble(), 1e-6) << in << " " << out;
    const at::Tensor alone = at::empty({1, out});  // a row's sums do not depend on its companions
    for (const std::int64_t row : {0, 13, 28}) {
      rotation.carry(x.const_data_ptr<float>() + row * in, 1, alone.data_ptr<float>());
      EXPECT_TRUE(alone.equal(got.narrow(0, row, 1)));
    }
  }
}

}  // namespace
}  // namespace miq
