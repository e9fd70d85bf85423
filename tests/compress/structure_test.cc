// Structured removal: scores against differences of the losses of the naive reference, the smaller model against the dense one with the
// same parts silenced.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <functional>

#include "miq/base/error.h"
#include "miq/compress/structure.h"
#include "miq/compress/structure_parts.h"
#include "miq/compress/structure_scores.h"
#include "miq/model/forward.h"
#include "tests/model/small_model.h"

namespace miq {
namespace {

using test::random_ids;
using test::small_model;

Config base_config(const std::string& architecture) {
  Config config;
  config.architecture = architecture;
  config.vocabulary = 41;
  config.hidden = 16;
  config.max_positions = 64;
  config.norm_epsilon = 1e-5;
  config.tied_head = true;
  config.layers = {{4, 2, 4, 16}, {6, 3, 4, 24}};
  if (architecture == "opt") {
    config.layers = {{4, 4, 4, 16}, {4, 4, 4, 24}};
    config.norm = NormKind::Layer;
    config.activation = Activation::Relu;
    config.gated_mlp = false;
    config.query_bias = config.output_bias = config.mlp_bias = true;
    config.positions = Positions::Learned;
    config.position_offset = 2;
  } else if (architecture == "qwen") {
    config.layers = {{4, 4, 4, 16}, {6, 6, 4, 24}};
    config.query_bias = true;
    config.tied_head = false;
  }
  return config;
}

Calibration windows_of(std::int64_t windows, std::int64_t seqlen, std::int64_t vocabulary) {
  Calibration calibration;
  for (std::int64_t w = 0; w < windows; ++w)
    calibration.windows.push_back(random_ids(seqlen, vocabulary, static_cast<std::uint32_t>(200 + w)));
  calibration.description = {{"text", "none"}};
  return calibration;
}

CompressOptions removal(double sparsity, bool compensate) {
  CompressOptions options;
  options.method = "structured";
  options.sparsity = sparsity;
  options.compensate = compensate;
  options.compute = ComputeType::Float32;
  return options;
}

CompressResult remove(const Model& model, const Calibration& calibration, const CompressOptions& options, int threads = 2) {
  ThreadPool pool(threads);
  return compress(model, calibration, resolve(options, model.config), pool);
}

std::vector<float> logits(const Model& model, const std::vector<std::int32_t>& ids) {
  const ForwardPass pass(model, ComputeType::Float32);
  at::Tensor hidden = pass.embed(ids);
  for (std::int64_t layer = 0; layer < pass.layers(); ++layer) hidden = pass.run_layer(pass.load_layer(layer), hidden);
  const at::Tensor z = pass.logits(hidden).contiguous();
  return {z.const_data_ptr<float>(), z.const_data_ptr<float>() + z.numel()};
}

// Logits of the naive reference.
std::vector<double> exact_logits(const reference::Forward& oracle, const std::vector<std::int32_t>& ids) {
  reference::Matrix x = oracle.embed(ids);
  for (std::size_t layer = 0; layer < oracle.config.layers.size(); ++layer) x = oracle.run_layer(static_cast<std::int64_t>(layer), x);
  return oracle.logits(x).data;
}

template <typename A, typename B>
double distance(const A& a, const B& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0, difference = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(b[i])));
    difference = std::max(difference, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  }
  return difference / largest;
}

std::int64_t linear_weights(const Config& config) {
  std::int64_t sum = 0;
  for (const ExpectedTensor& tensor : expected_tensors(config)) sum += tensor.linear ? tensor.shape[0] * tensor.shape[1] : 0;
  return sum;
}

std::string name_of(const Config& config, std::int64_t layer, Role role) {
  const Architecture& table = architecture(config.architecture);
  return layer_tensor_name(table, layer, rule_name(table, role));
}

// Sum of the losses of all windows.
double loss(const reference::Forward& oracle, const Calibration& calibration) {
  double sum = 0;
  for (const auto& ids : calibration.windows) {
    for (const double value : oracle.losses(ids)) sum += value;
  }
  return sum;
}

class Removal : public testing::TestWithParam<const char*> {};

// In windows of two tokens only the first predicts, so the square per token is that of one derivative per window.
TEST_P(Removal, FisherScoresAreSquaredDerivatives) {
  const Config config = base_config(GetParam());
  const test::SmallModel small = small_model(config);
  const Calibration calibration = windows_of(3, 2, config.vocabulary);
  ThreadPool pool(2);
  const ForwardPass pass(small.model, ComputeType::Float32);
  const auto scores = measure_scores(pass, calibration, RemovalScore::Fisher, pool, [](std::string_view, double) {});
  for (std::int64_t l = 0; l < 2; ++l) {
    const auto layer = static_cast<std::size_t>(l);
    for (const Role role : {Role::AttentionOutput, Role::Down}) {
      const Ownership owned = ownership(role, config.layers[layer]);
      const auto& found = role == Role::Down ? scores[layer].channels : scores[layer].groups;
      for (const std::int64_t part : {std::int64_t{0}, static_cast<std::int64_t>(found.size()) - 1}) {
        double expected = 0;
        for (const auto& ids : calibration.windows) {
          const auto with = [&](double factor) {
            reference::Forward changed = small.oracle;
            reference::Matrix& w = changed.weights.at(name_of(config, l, role));
            for (std::int64_t r = 0; r < w.rows; ++r) {
              for (std::int64_t c = 0; c < w.cols; ++c) w.at(r, c) *= owned.owner[static_cast<std::size_t>(c)] == part ? factor : 1;
            }
            return loss(changed, {{ids}, {}});
          };
          expected += std::pow((with(1 + 1e-5) - with(1 - 1e-5)) / 2e-5, 2);
        }
        EXPECT_NEAR(found[static_cast<std::size_t>(part)], expected, 1e-3 * expected + 1e-9) << l << " part " << part;
      }
    }
  }
}

TEST_P(Removal, TaylorScoresSumWeightsTimesGradients) {
  const Config config = base_config(GetParam());
  const test::SmallModel small = small_model(config);
  const Calibration calibration = windows_of(2, 6, config.vocabulary);
  ThreadPool pool(2);
  const ForwardPass pass(small.model, ComputeType::Float32);
  const auto scores = measure_scores(pass, calibration, RemovalScore::Taylor, pool, [](std::string_view, double) {});
  const std::int64_t l = 1;
  const LayerConfig& sizes = config.layers[1];
  double group = 0, channel = 0;
  for (const LayerTensor& tensor : layer_tensors(config, l)) {
    const Ownership owned = ownership(tensor.rule->role, sizes);
    if (!tensor.linear() || owned.of == Ownership::Of::Nobody) continue;
    reference::Forward changed = small.oracle;
    reference::Matrix& w = changed.weights.at(layer_tensor_name(architecture(config.architecture), l, tensor.name));
    for (std::int64_t r = 0; r < w.rows; ++r) {
      for (std::int64_t c = 0; c < w.cols; ++c) {
        if (owned.owner[static_cast<std::size_t>(owned.rows ? r : c)] != 1) continue;
        const double kept = w.at(r, c);
        w.at(r, c) = kept + 1e-5;
        const double up = loss(changed, calibration);
        w.at(r, c) = kept - 1e-5;
        const double down = loss(changed, calibration);
        w.at(r, c) = kept;
        (owned.of == Ownership::Of::Channels ? channel : group) += std::abs(kept * (up - down) / 2e-5);
      }
    }
  }
  EXPECT_NEAR(scores[1].groups[1], group, 1e-3 * group);
  EXPECT_NEAR(scores[1].channels[1], channel, 1e-3 * channel);
}

// Where the processor has bfloat16, that is what a run measures in.
TEST_P(Removal, ScoresInBFloat16AreThoseOfFloat32RoundedOften) {
  const Config config = base_config(GetParam());
  const test::SmallModel small = small_model(config);
  const Calibration calibration = windows_of(8, 64, config.vocabulary);
  ThreadPool pool(2);
  const auto sum_of = [](const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); };
  for (const RemovalScore score : {RemovalScore::Fisher, RemovalScore::Taylor}) {
    const auto measure = [&](ComputeType type) {
      return measure_scores(ForwardPass(small.model, type), calibration, score, pool, [](std::string_view, double) {});
    };
    const auto want = measure(ComputeType::Float32), got = measure(ComputeType::BFloat16);
    for (std::size_t l = 0; l < 2; ++l) {
      ASSERT_EQ(got[l].groups.size(), want[l].groups.size());
      ASSERT_EQ(got[l].channels.size(), want[l].channels.size());
      EXPECT_NEAR(sum_of(got[l].groups), sum_of(want[l].groups), 0.25 * sum_of(want[l].groups));
      EXPECT_NEAR(sum_of(got[l].channels), sum_of(want[l].channels), 0.25 * sum_of(want[l].channels));
    }
  }
}

// The kept parts are recognised by their rows, which stay as they are.
TEST_P(Removal, IsTheDenseModelWithThePartsSilenced) {
  const Config config = base_config(GetParam());
  const test::SmallModel small = small_model(config);
  for (const SparsityAllocation allocation : {SparsityAllocation::Even, SparsityAllocation::Global}) {
    CompressOptions options = removal(0.4, false);
    options.sparsity_allocation = allocation;
    const Model model = remove(small.model, windows_of(4, 12, config.vocabulary), options).model;
    EXPECT_LE(linear_weights(model.config), linear_weights(config));
    EXPECT_GE(static_cast<double>(linear_weights(model.config)), 0.6 * static_cast<double>(linear_weights(config)));
    EXPECT_LT(static_cast<double>(linear_weights(model.config)), 0.8 * static_cast<double>(linear_weights(config)));
    reference::Forward silenced = small.oracle;
    for (std::int64_t l = 0; l < 2; ++l) {
      for (const Role role : {Role::AttentionOutput, Role::Down}) {
        // A column is kept where the smaller matrix has it too.
        reference::Matrix& w = silenced.weights.at(name_of(config, l, role));
        const Tensor& tensor = model.tensors.at(name_of(config, l, role));
        const Blob blob = decode(tensor, "w");
        const auto* values = reinterpret_cast<const float*>(blob.bytes().data());
        std::int64_t next = 0;
        for (std::int64_t c = 0; c < w.cols; ++c) {
          if (next < tensor.shape[1] && static_cast<float>(w.at(0, c)) == values[next]) {
            ++next;
            continue;
          }
          for (std::int64_t r = 0; r < w.rows; ++r) w.at(r, c) = 0;
        }
        EXPECT_EQ(next, tensor.shape[1]);
      }
    }
    const auto ids = random_ids(20, config.vocabulary, 3);
    EXPECT_LT(distance(logits(model, ids), exact_logits(silenced, ids)), 2e-5);
  }
}

TEST_P(Removal, CompensationLowersTheErrorAndBytesDoNotDependOnThreads) {
  const Config config = base_config(GetParam());
  const test::SmallModel small = small_model(config, DType::BF16);
  const Calibration calibration = windows_of(9, 24, config.vocabulary);
  std::string first;
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    const Model model = remove(small.model, calibration, removal(0.3, true), threads).model;
    const std::string digest = weights_digest(model, pool) + model.statistics.dump() + model.method.dump();
    if (first.empty()) first = digest;
    EXPECT_EQ(digest, first);
    for (const auto& [name, tensor] : model.tensors) EXPECT_EQ(tensor.dtype, DType::BF16) << name;
    EXPECT_EQ(model.statistics["structure"]["weights"], linear_weights(model.config));
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Removal, testing::Values("llama", "opt", "qwen"),
                         [](const auto& test) { return std::string(test.param); });

TEST(RemovalOfLayers, LeavesTheOthersAsTheyAre) {
  Config config = base_config("llama");
  config.layers = {{4, 2, 4, 16}, {4, 2, 4, 16}, {4, 2, 4, 16}, {4, 2, 4, 16}};
  const test::SmallModel small = small_model(config);
  CompressOptions options = removal(0.5, false);
  options.compensate.reset();
  options.removed_parts = RemovedParts::Layers;
  options.protected_layers = {1, 0};
  const Model model = remove(small.model, windows_of(4, 12, config.vocabulary), options).model;
  validate(model);
  reference::Forward fewer = small.oracle;
  fewer.config.layers.clear();
  std::int64_t kept = 0;
  for (std::int64_t l = 0; l < 4; ++l) {
    if (model.config.layers[static_cast<std::size_t>(l)].identity) continue;
    fewer.config.layers.push_back(config.layers[static_cast<std::size_t>(l)]);
    for (const LayerTensor& tensor : layer_tensors(config, l)) {
      fewer.weights[layer_tensor_name(architecture("llama"), kept, tensor.name)] =
          small.oracle.weights.at(layer_tensor_name(architecture("llama"), l, tensor.name));
    }
    ++kept;
  }
  EXPECT_EQ(kept, 2);
  EXPECT_FALSE(model.config.layers[0].identity);
  const auto ids = random_ids(16, config.vocabulary, 9);
  EXPECT_LT(distance(logits(model, ids), exact_logits(fewer, ids)), 2e-5);
}

TEST(RemovalRefuses, WhatDoesNotBelong) {
  const auto refused = [](const Config& config, const std::function<void(CompressOptions&)>& change, const std::string& word) {
    CompressOptions options;
    options.method = "structured";
    options.sparsity = 0.25;
    change(options);
    try {
      resolve(options, config);
      ADD_FAILURE() << "not refused: " << word;
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  };
  const Config config = base_config("llama");
  refused(
      config, [](CompressOptions& o) { o.sparsity.reset(); }, "--sparsity");
  refused(
      config, [](CompressOptions& o) { o.sparsity = 1; }, "--sparsity");
  refused(
      config, [](CompressOptions& o) { o.wbits = 4; }, "--wbits");
  refused(
      config, [](CompressOptions& o) { o.round_interval = 8; }, "--round-interval");
  refused(
      config,
      [](CompressOptions& o) {
        o.protected_layers = {1, 1};
      },
      "--protect-layers");
  refused(
      config, [](CompressOptions& o) { o.protected_layers = {1}; }, "--protect-layers");
  refused(
      config, [](CompressOptions& o) { o.removed_parts = RemovedParts::Layers, o.compensate = true; }, "--compensate");
  refused(
      config, [](CompressOptions& o) { o.removed_parts = RemovedParts::Layers, o.removal_score = RemovalScore::Taylor; },
      "--removal-score");
  refused(
      config, [](CompressOptions& o) { o.method = "wanda", o.compensate = true; }, "--compensate");
  refused(
      config, [](CompressOptions& o) { o.method = "wanda", o.removed_parts = RemovedParts::Layers; }, "--remove");
  Config experts = config;
  experts.architecture = "mixtral";
  experts.experts_per_token = 2;
  experts.layers[0].experts = experts.layers[1].experts = 4;
  refused(
      experts, [](CompressOptions&) {}, "mixture");
}

}  // namespace
}  // namespace miq
