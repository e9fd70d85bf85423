// SliceGPT against a naive implementation of the original's steps, and against the dense model where nothing is cut away.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>

#include "miq/base/error.h"
#include "miq/compress/principal_axes.h"
#include "miq/compress/slice.h"
#include "miq/compress/slice_fuse.h"
#include "miq/model/forward.h"
#include "tests/model/small_model.h"
#include "tests/reference/slice_reference.h"

namespace miq {
namespace {

using test::random_ids;
using test::small_model;

Config base_config(const std::string& architecture) {
  const bool opt = architecture == "opt";
  Config config;
  config.architecture = architecture;
  config.vocabulary = 67;
  config.hidden = 32;
  config.max_positions = 64;
  config.norm_epsilon = 1e-5;
  config.tied_head = true;
  config.layers = {{4, opt ? 4 : 2, 8, 44}, {4, opt ? 4 : 1, 8, 36}, {4, opt ? 4 : 2, 8, 40}};
  if (opt) {
    config.norm = NormKind::Layer;
    config.activation = Activation::Relu;
    config.gated_mlp = false;
    config.query_bias = config.output_bias = config.mlp_bias = true;
    config.positions = Positions::Learned;
    config.position_offset = 2;
  }
  return config;
}

Calibration windows_of(std::int64_t windows, std::int64_t seqlen, std::int64_t vocabulary) {
  Calibration calibration;
  for (std::int64_t w = 0; w < windows; ++w)
    calibration.windows.push_back(random_ids(seqlen, vocabulary, static_cast<std::uint32_t>(100 + w)));
  calibration.description = {{"text", "none"}};
  return calibration;
}

CompressOptions slicing(double sparsity) {
  CompressOptions options;
  options.method = "slicegpt";
  options.sparsity = sparsity;
  options.compute = ComputeType::Float32;
  return options;
}

CompressResult slice(const Model& model, const Calibration& calibration, const CompressOptions& options, int threads = 2) {
  ThreadPool pool(threads);
  return compress(model, calibration, resolve(options, model.config), pool);
}

std::vector<float> logits(const Model& model, const std::vector<std::int32_t>& ids, ComputeType type = ComputeType::Float32) {
  const ForwardPass pass(model, type);
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

// The largest difference, of the largest value.
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

class Slicing : public testing::TestWithParam<const char*> {};

TEST_P(Slicing, FusedNormsChangeNothing) {
  const Config config = base_config(GetParam());
  for (const std::uint32_t seed : {1u, 2u}) {
    const test::SmallModel small = small_model(config, DType::F32, seed);
    ThreadPool pool(2);
    const Model fused = fuse_norms(small.model, pool);
    validate(fused);
    EXPECT_EQ(fused.config.norm, NormKind::FusedRms);
    const auto ids = random_ids(30, config.vocabulary, seed);
    EXPECT_LT(distance(logits(fused, ids), exact_logits(small.oracle, ids)), 2e-5);
  }
}

TEST_P(Slicing, RotationsAloneChangeNothing) {
  const Config config = base_config(GetParam());
  const test::SmallModel small = small_model(config);
  const CompressResult result = slice(small.model, windows_of(6, 20, config.vocabulary), slicing(0));
  EXPECT_EQ(embedding_width(result.model.config), config.hidden);
  const auto ids = random_ids(30, config.vocabulary, 3);
  EXPECT_LT(distance(logits(result.model, ids), exact_logits(small.oracle, ids)), 5e-5);
}

TEST_P(Slicing, IsTheOriginalsInDoublePrecision) {
  const Config config = base_config(GetParam());
  for (const double sparsity : {0.25, 0.5}) {
    const test::SmallModel small = small_model(config);
    const Calibration calibration = windows_of(8, 24, config.vocabulary);
    const CompressResult result = slice(small.model, calibration, slicing(sparsity));
    reference::SliceGpt oracle{config, small.oracle.weights, static_cast<std::int64_t>(32 * (1 - sparsity))};
    oracle.run(calibration.windows);
    const auto ids = random_ids(40, config.vocabulary, 5);
    const auto expected = reference::SlicedForward{oracle.config, oracle.weights}.logits(ids).data;
    const auto dense = exact_logits(small.oracle, ids);
    EXPECT_LT(distance(logits(result.model, ids), expected), 2e-4) << sparsity;
    EXPECT_GT(distance(expected, dense), 0.02) << "the comparison would show nothing";
  }
}

TEST_P(Slicing, DescribesItselfAndSurvivesTheContainer) {
  const Config config = base_config(GetParam());
  const test::SmallModel small = small_model(config, DType::BF16);
  CompressOptions options = slicing(0.3);
  const CompressResult result = slice(small.model, windows_of(4, 16, config.vocabulary), options);
  const Model& model = result.model;
  EXPECT_TRUE(model.config.sliced);
  EXPECT_EQ(embedding_width(model.config), 16);  // int(0.7 * 32) = 22, less 22 mod 8
  EXPECT_EQ(head_width(model.config), 32);
  EXPECT_EQ(model.method.at("name"), "slicegpt");
  EXPECT_EQ(model.method.at("pruning_ratio"), 0.3);
  EXPECT_EQ(model.method.at("actual_ratio"), 0.5);
  std::int64_t elements = 0;
  for (const auto& [name, tensor] : model.tensors) {
    elements += tensor.elements();
    EXPECT_EQ(tensor.dtype, DType::BF16) << name;
  }
  EXPECT_EQ(model.statistics.at("slicing").at("parameters"), elements);
  ASSERT_EQ(model.statistics.at("layers").size(), 3u);
  for (const Json& layer : model.statistics.at("layers")) {
    for (const Json& energy : layer.at("energy")) {
      EXPECT_GT(energy.get<double>(), 0.5);
      EXPECT_LE(energy.get<double>(), 1 + 1e-12);
    }
  }
  EXPECT_EQ(model.statistics["layers"][2]["energy"][2], 1.0);  // the head reads all of it

  const std::string path = (std::filesystem::path(testing::TempDir()) / (std::string("miq_slice_") + GetParam() + ".miq")).string();
  save_model(model, path);
  const Model read = load_model(path);
  std::filesystem::remove(path);
  const auto ids = random_ids(20, config.vocabulary, 7);
  EXPECT_EQ(logits(read, ids), logits(model, ids));

  options.round_interval = 1;
  EXPECT_EQ(embedding_width(slice(small.model, windows_of(4, 16, config.vocabulary), options).model.config), 22);
}

TEST_P(Slicing, HasTheSameBytesAtAnyNumberOfThreads) {
  const Config config = base_config(GetParam());
  const test::SmallModel small = small_model(config);
  const Calibration calibration = windows_of(7, 19, config.vocabulary);
  std::string first;
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    const Model model = slice(small.model, calibration, slicing(0.25), threads).model;
    const std::string digest = weights_digest(model, pool) + model.statistics.dump();
    if (first.empty()) first = digest;
    EXPECT_EQ(digest, first) << threads;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Slicing, testing::Values("llama", "opt"), [](const auto& test) { return std::string(test.param); });

TEST(PrincipalAxes, AreOrthogonalFallingAndPointOneWay) {
  ThreadPool pool(2);
  const Config config = base_config("llama");
  const test::SmallModel small = small_model(config);
  const ForwardPass pass(small.model, ComputeType::Float32);
  std::vector<at::Tensor> states, negative;
  for (const auto& ids : windows_of(5, 30, config.vocabulary).windows) {
    states.push_back(pass.embed(ids));
    negative.push_back(-states.back());
  }
  const at::Tensor moments = second_moments(states, pool);
  const PrincipalAxes found = principal_axes(moments, 0.01);
  const std::int64_t n = config.hidden;
  const at::Tensor product = found.axes.t().matmul(found.axes).contiguous();
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) EXPECT_NEAR(product.const_data_ptr<double>()[i * n + j], i == j, 1e-12);
    if (i > 0) {
      EXPECT_GE(found.energy[static_cast<std::size_t>(i - 1)], found.energy[static_cast<std::size_t>(i)]);
    }
    double largest = 0;
    for (std::int64_t r = 0; r < n; ++r) {
      const double value = found.axes.const_data_ptr<double>()[r * n + i];
      if (std::abs(value) > std::abs(largest)) largest = value;
    }
    EXPECT_GT(largest, 0);
  }
  EXPECT_EQ(found.share(n), 1);
  EXPECT_TRUE(found.axes.equal(principal_axes(second_moments(negative, pool), 0.01).axes));
}

TEST(SlicingRefuses, WhatCannotBeSlicedAndWhatDoesNotBelong) {
  const auto refused = [](const Config& config, const std::function<void(CompressOptions&)>& change, const std::string& word) {
    CompressOptions options = slicing(0.25);
    change(options);
    try {
      resolve(options, config);
      ADD_FAILURE() << "not refused: " << word;
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  };
  const Config config = base_config("llama");
  const auto nothing = [](CompressOptions&) {};
  refused(
      config, [](CompressOptions& o) { o.sparsity.reset(); }, "--sparsity");
  refused(
      config, [](CompressOptions& o) { o.sparsity = 0.9; }, "--round-interval");
  refused(
      config, [](CompressOptions& o) { o.round_interval = 0; }, "--round-interval");
  refused(
      config, [](CompressOptions& o) { o.wbits = 4; }, "--wbits");
  refused(
      config, [](CompressOptions& o) { o.prune_n = 2, o.prune_m = 4; }, "--prune-n");
  refused(
      config, [](CompressOptions& o) { o.group_size = 64; }, "--group-size");
  refused(
      config, [](CompressOptions& o) { o.target_avg_bits = 4; }, "--target-avg-bits");
  refused(
      config, [](CompressOptions& o) { o.sparsity_allocation = SparsityAllocation::Global; }, "--sparsity-allocation");
  refused(
      config, [](CompressOptions& o) { o.compensate = true; }, "--compensate");
  refused(
      config, [](CompressOptions& o) { o.method = "sparsegpt", o.round_interval = 8; }, "--round-interval");
  Config late = base_config("opt");
  late.norm_first = late.final_norm = false;
  refused(late, nothing, "behind the residual sum");
  Config experts = config;
  experts.architecture = "mixtral";
  experts.layers[1].experts = 4;
  experts.experts_per_token = 2;
  refused(experts, nothing, "mixtral");
  Config deleted = config;
  deleted.layers[1] = {};
  deleted.layers[1].identity = true;
  refused(deleted, nothing, "deleted");
}

}  // namespace
}  // namespace miq
