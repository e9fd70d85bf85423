// Every family's layers against the plain reference, on small random models of odd sizes.
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "miq/base/error.h"
#include "miq/model/bf16_layer.h"
#include "miq/model/forward.h"
#include "tests/model/small_families.h"
#include "tests/model/small_model.h"

namespace miq {
namespace {

using test::odd_config;
using test::random_ids;
using test::small_model;
using test::SmallModel;

using test::families;
using test::opt_config;

at::Tensor hidden_after(const ForwardPass& pass, const std::vector<std::int32_t>& ids, std::int64_t layers) {
  at::Tensor hidden = pass.embed(ids);
  for (std::int64_t layer = 0; layer < layers; ++layer) hidden = pass.run_layer(pass.load_layer(layer), hidden);
  return hidden;
}

std::vector<float> all_losses(const ForwardPass& pass, const std::vector<std::int32_t>& ids) {
  return pass.losses(hidden_after(pass, ids, pass.layers()), ids);
}

struct Differences {
  double largest = 0, mean = 0;
};
Differences compare(const std::vector<float>& got, const std::vector<double>& expected) {
  EXPECT_EQ(got.size(), expected.size());
  Differences differences;
  for (std::size_t i = 0; i < got.size(); ++i) {
    differences.largest = std::max(differences.largest, std::abs(got[i] - expected[i]));
    differences.mean += (got[i] - expected[i]) / static_cast<double>(got.size());
  }
  return differences;
}

TEST(Families, MatchTheReferenceInFloat32) {
  for (const auto& [name, config] : families()) {
    const SmallModel small = small_model(config);
    EXPECT_NO_THROW(validate(small.model)) << name;
    const ForwardPass pass(small.model, ComputeType::Float32);
    for (const std::int64_t tokens : {2, 3, 17, 65, 150}) {
      const auto ids = random_ids(tokens, config.vocabulary, 7);
      EXPECT_LT(compare(all_losses(pass, ids), small.oracle.losses(ids)).largest, 5e-5) << name << ", " << tokens << " tokens";
    }
  }
}

// A rounding may send a token to another expert: single losses may then be anything, their mean may not.
TEST(Families, MatchTheReferenceInBFloat16WithinItsRounding) {
  for (const auto& [name, config] : families()) {
    const SmallModel small = small_model(config, DType::BF16);
    for (const Kernels kernels : {Kernels::Best, Kernels::Portable}) {
      const ForwardPass pass(small.model, ComputeType::BFloat16, kernels);
      const auto ids = random_ids(150, config.vocabulary, 7);
      const Differences differences = compare(all_losses(pass, ids), small.oracle.losses(ids));
      if (config.experts_per_token == 0) {
        EXPECT_LT(differences.largest, 0.4) << name;
      }
      EXPECT_LT(std::abs(differences.mean), config.experts_per_token == 0 ? 0.015 : 0.03) << name;
    }
  }
}

// Our own kernels want even sizes; those above are odd.
TEST(Families, OwnKernelsMatchTheReference) {
  if (!have_bf16_kernels()) GTEST_SKIP() << "this CPU has no AVX512-BF16";
  std::set<std::string> own;
  for (auto [name, config] : families()) {
    if (config.sliced) continue;
    config.hidden = 38;
    for (LayerConfig& layer : config.layers) layer.mlp_width += layer.mlp_width % 2;
    for (const LayerConfig& layer : config.layers) {
      if (Bf16Layer::supports(config, layer)) own.insert(name);
    }
    if (!own.contains(name)) continue;
    const SmallModel small = small_model(config, DType::BF16);
    const ForwardPass pass(small.model, ComputeType::BFloat16), portable(small.model, ComputeType::BFloat16, Kernels::Portable);
    const auto ids = random_ids(150, config.vocabulary, 7);
    const at::Tensor embedded = pass.embed(ids);
    const at::Tensor here = pass.run_layer(pass.load_layer(0), embedded), there = portable.run_layer(portable.load_layer(0), embedded);
    EXPECT_LT(((here - there).norm() / there.norm()).item().toDouble(), 0.01) << name;
    const Differences differences = compare(all_losses(pass, ids), small.oracle.losses(ids));
    EXPECT_LT(std::abs(differences.mean), config.experts_per_token == 0 ? 0.015 : 0.03) << name;
  }
  EXPECT_EQ(own, (std::set<std::string>{"llama with dynamic scaling", "llama with yarn", "mistral", "qwen", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"}));
}

TEST(Families, SurviveTheContainersJson) {
  for (const auto& [name, config] : families()) {
    EXPECT_EQ(Config::from_json(config.to_json(), name).to_json(), config.to_json()) << name;
  }
}

// Central differences of the reference: d(sum of losses) / d(linear's output) and / d(embedded tokens).
void check_gradients(const std::string& label, const Config& config) {
  const SmallModel small = small_model(config);
  const ForwardPass pass(small.model, ComputeType::Float32);
  const auto ids = random_ids(9, config.vocabulary, 11);
  const auto layers = static_cast<std::int64_t>(config.layers.size());
  at::Tensor gradient = pass.loss_gradient(hidden_after(pass, ids, layers), ids);
  std::map<std::pair<std::int64_t, std::string>, at::Tensor> outputs;
  for (std::int64_t layer = layers - 1; layer >= 0; --layer) {
    gradient = pass.backward_layer(pass.load_layer(layer), hidden_after(pass, ids, layer), gradient,
                                   [&](std::string_view name, const at::Tensor& g) { outputs[{layer, std::string(name)}] = g; });
  }
  const reference::Matrix embedded = small.oracle.embed(ids);
  const auto total = [&](const reference::Forward& oracle, reference::Matrix x) {
    for (std::int64_t layer = 0; layer < layers; ++layer) x = oracle.run_layer(layer, x);
    double sum = 0;
    for (const double loss : oracle.losses(x, ids)) sum += loss;
    return sum;
  };
  constexpr double kStep = 1e-5;
  for (const auto& [key, g] : outputs) {
    for (const auto& [r, c] : {std::pair{0, 0}, {3, 5}}) {
      const std::int64_t row = r % g.size(0), column = c % g.size(1);
      double ends[2];
      for (const int side : {0, 1}) {
        reference::Forward oracle = small.oracle;
        oracle.on_output = [&, key = key](std::int64_t layer, std::string_view name, reference::Matrix& y) {
          if (layer == key.first && name == key.second) y.at(row, column) += side ? kStep : -kStep;
        };
        ends[side] = total(oracle, embedded);
      }
      EXPECT_NEAR(g[row][column].item().toDouble(), (ends[1] - ends[0]) / (2 * kStep), 2e-4) << label << ": " << key.second << " " << row << " " << column;
    }
  }
  for (const auto& [row, column] : {std::pair{0, 0}, {3, 5}, {6, 17}}) {
    double ends[2];
    for (const int side : {0, 1}) {
      reference::Matrix moved = embedded;
      moved.at(row, column) += side ? kStep : -kStep;
      ends[side] = total(small.oracle, moved);
    }
    EXPECT_NEAR(gradient[row][column].item().toDouble(), (ends[1] - ends[0]) / (2 * kStep), 2e-4) << label;
  }
}

TEST(Families, GradientsMatchFiniteDifferences) {
  for (const auto& [name, config] : families()) check_gradients(name, config);
}

TEST(Families, LearnedPositionsEndWhereTheirTableDoes) {
  Config config = opt_config();
  config.max_positions = 20;
  const SmallModel small = small_model(config);
  const ForwardPass pass(small.model, ComputeType::Float32);
  EXPECT_NO_THROW(pass.embed(random_ids(20, config.vocabulary, 1)));
  EXPECT_THROW(pass.embed(random_ids(21, config.vocabulary, 1)), Error);
}

// The bases of dynamic scaling depend on the text's length: a table for one must not serve another.
TEST(Families, ShortTextsAfterLongOnesRunAsBefore) {
  const Config config = families().at("llama with dynamic scaling");
  const SmallModel small = small_model(config);
  const ForwardPass pass(small.model, ComputeType::Float32);
  const auto ids = random_ids(30, config.vocabulary, 3);
  const auto before = all_losses(pass, ids);
  all_losses(pass, random_ids(120, config.vocabulary, 4));
  EXPECT_EQ(all_losses(pass, ids), before);
}

}  // namespace
}  // namespace miq
