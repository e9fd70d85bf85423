// --true-sequential against its definition: each site's linears are what they become in a run that finds the sites before them already compressed.
#include <gtest/gtest.h>

#include <algorithm>

#include "miq/base/error.h"
#include "miq/compress/compress.h"
#include "miq/compress/hessian.h"
#include "miq/compress/solve.h"
#include "miq/compress/walk.h"
#include "miq/formats/packed_matrix.h"
#include "tests/model/small_model.h"

namespace miq {
namespace {

Config config_of(const std::string& architecture) {
  Config c;
  c.architecture = architecture;
  c.vocabulary = 80;
  c.hidden = 48;
  c.max_positions = 64;
  c.layers.assign(2, {4, 2, 12, 96});
  c.tied_head = true;
  if (architecture == "mixtral") {
    c.experts_per_token = 2;
    for (LayerConfig& layer : c.layers) layer.experts = 3, layer.mlp_width = 20;
  }
  return c;
}

Calibration windows() {
  Calibration calibration;
  for (std::uint32_t w = 0; w < 12; ++w) calibration.windows.push_back(test::random_ids(24, 80, w));
  return calibration;
}

CompressOptions options_of(const std::string& method, ComputeType type) {
  CompressOptions options;
  options.method = method;
  options.wbits = 3;
  options.compute = type;
  options.true_sequential = true;
  return options;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return std::equal(a.sections.begin(), a.sections.end(), b.sections.begin(), b.sections.end(),
                    [](const auto& x, const auto& y) { return x.first == y.first && std::ranges::equal(x.second.bytes(), y.second.bytes()); });
}

// Second moments of the inputs of a layer's places in `model`.
std::map<InputPlace, InputStatistics> inputs_of(const Model& model, std::int64_t layer, ComputeType type, ThreadPool& pool) {
  const ForwardPass forward(model, type);
  const Calibration calibration = windows();
  Walk walk(forward, calibration, pool);
  for (std::int64_t l = 0; l < layer; ++l) walk.advance(forward.load_layer(l));
  std::map<InputPlace, HessianSum> sums;
  walk.observe(forward.load_layer(layer), [&](InputPlace place, std::span<const at::Tensor> inputs) {
    sums.try_emplace(place, inputs.front().size(1)).first->second.add(inputs, pool);
  }, false);
  std::map<InputPlace, InputStatistics> statistics;
  for (auto& [place, sum] : sums) {
    statistics[place].tokens = sum.tokens();
    statistics[place].hessian = sum.mean();
  }
  return statistics;
}

void check(const std::string& architecture_name, ComputeType type) {
  const Config config = config_of(architecture_name);
  const Model dense = test::small_model(config).model;
  const Recipe recipe = resolve(options_of("gptq", type), config);
  ThreadPool pool(2);
  const Model compressed = compress(dense, windows(), recipe, pool).model;
  Model so_far = dense;
  const Architecture& table = architecture(config.architecture);
  for (std::int64_t l = 0; l < 2; ++l) {
    for (InputSite site : kInputSites) {
      const auto statistics = inputs_of(so_far, l, type, pool);
      for (const LayerTensor& rule : layer_tensors(config, l)) {
        if (!rule.linear() || rule.place().site != site) continue;
        const std::string name = layer_tensor_name(table, l, rule.name);
        MatrixJob job;
        job.rule = rule.name;
        job.weights = to_torch(dense.tensors.at(name), name, at::kFloat);
        const auto solved = solve_place(recipe, {&job, 1}, statistics.at(rule.place()), nullptr, pool);
        const Tensor wanted = pack(*solved.front().packed, dense.tensors.at(name).dtype);
        EXPECT_TRUE(same_bytes(wanted, compressed.tensors.at(name))) << name;
        so_far.tensors.at(name) = compressed.tensors.at(name);
      }
    }
  }
}

TEST(TrueSequential, EachSiteSeesWhatTheSitesBeforeItBecame) {
  check("llama", ComputeType::Float32);
  check("llama", ComputeType::BFloat16);
  check("mixtral", ComputeType::Float32);
}

TEST(TrueSequential, IsAnotherResultAndRemembered) {
  const Config config = config_of("llama");
  const Model dense = test::small_model(config).model;
  ThreadPool pool(2);
  CompressOptions options = options_of("gptq", ComputeType::Float32);
  const Model staged = compress(dense, windows(), resolve(options, config), pool).model;
  EXPECT_EQ(staged.method["true_sequential"], true);
  options.true_sequential = false;
  const Model at_once = compress(dense, windows(), resolve(options, config), pool).model;
  EXPECT_FALSE(at_once.method.contains("true_sequential"));
  // The first site has nothing before it.
  const auto same = [&](const char* name) { return same_bytes(staged.tensors.at(name), at_once.tensors.at(name)); };
  EXPECT_TRUE(same("model.layers.0.self_attn.q_proj.weight"));
  EXPECT_FALSE(same("model.layers.0.self_attn.o_proj.weight"));
  EXPECT_FALSE(same("model.layers.0.mlp.down_proj.weight"));
}

TEST(TrueSequential, TheSameWithFewHessiansAtOnceAndAtAnyNumberOfThreads) {
  const Config config = config_of("mixtral");
  const Model dense = test::small_model(config).model;
  const Recipe recipe = resolve(options_of("gptq", ComputeType::Float32), config);
  ThreadPool pool(2), one(1);
  const Model wanted = compress(dense, windows(), recipe, pool).model;
  WorkingMemory memory;
  memory.hessians = 1;
  const Model batched = compress(dense, windows(), recipe, one, {}, {}, nullptr, memory).model;
  for (const auto& [name, tensor] : wanted.tensors) EXPECT_TRUE(same_bytes(tensor, batched.tensors.at(name))) << name;
}

TEST(TrueSequential, IsRefusedWhereNothingIsCalibrated) {
  EXPECT_THROW(resolve(options_of("rtn", ComputeType::Float32), config_of("llama")), UsageError);
}

TEST(TrueSequential, IsTheDefaultOfMixedPrecision) {
  CompressOptions options;
  options.method = "mixed";
  options.target_avg_bits = 3;
  EXPECT_TRUE(resolve(options, config_of("llama")).true_sequential);
  options.sparsity = 0.5;
  EXPECT_TRUE(resolve(options, config_of("llama")).true_sequential);
  options.true_sequential = false;
  EXPECT_FALSE(resolve(options, config_of("llama")).true_sequential);
  options.method = "sparsegpt";
  options.true_sequential.reset(), options.target_avg_bits.reset();
  EXPECT_FALSE(resolve(options, config_of("llama")).true_sequential);
}

}  // namespace
}  // namespace miq
