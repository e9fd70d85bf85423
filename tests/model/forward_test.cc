#include "miq/model/forward.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/softmax.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "miq/base/error.h"
#include "miq/base/thread_pool.h"
#include "tests/model/small_model.h"

namespace miq {
namespace {

using test::odd_config;
using test::random_ids;
using test::small_model;
using test::SmallModel;

at::Tensor hidden_after(const ForwardPass& pass, const std::vector<std::int32_t>& ids, std::int64_t layers) {
  at::Tensor hidden = pass.embed(ids);
  for (std::int64_t layer = 0; layer < layers; ++layer) hidden = pass.run_layer(pass.load_layer(layer), hidden);
  return hidden;
}

std::vector<float> all_losses(const ForwardPass& pass, const std::vector<std::int32_t>& ids) {
  return pass.losses(hidden_after(pass, ids, pass.layers()), ids);
}

std::vector<double> doubles(const std::vector<float>& values) { return {values.begin(), values.end()}; }

double largest_difference(const std::vector<double>& got, const std::vector<double>& expected) {
  EXPECT_EQ(got.size(), expected.size());
  double largest = 0;
  for (std::size_t i = 0; i < got.size(); ++i) largest = std::max(largest, std::abs(got[i] - expected[i]));
  return largest;
}

double mean_difference(const std::vector<double>& got, const std::vector<double>& expected) {
  double sum = 0;
  for (std::size_t i = 0; i < got.size(); ++i) sum += got[i] - expected[i];
  return std::abs(sum) / static_cast<double>(got.size());
}

std::vector<Config> configs() {
  std::vector<Config> list(6, odd_config());
  list[1].tied_head = true;
  list[1].rope_theta = 500000;
  list[2].rope_scaling.kind = RopeScaling::Kind::Linear;
  list[2].rope_scaling.factor = 4;
  list[3].rope_scaling = {RopeScaling::Kind::Llama3, 8, 1, 4, 64};
  list[4].layers = {{9, 3, 64, 96}, {2, 1, 128, 40}, {5, 5, 32, 33}};
  list[4].hidden = 96;
  list[5].layers = {{6, 2, 10, 54}, {3, 3, 6, 30}, {4, 1, 34, 66}};  // even, as our own kernels want them, but no whole tiles
  list[5].hidden = 70;
  list[5].vocabulary = 131;
  return list;
}

TEST(Forward, MatchesTheReferenceInFloat32) {
  for (const Config& config : configs()) {
    const SmallModel small = small_model(config);
    const ForwardPass pass(small.model, ComputeType::Float32);
    for (const std::int64_t tokens : {2, 3, 17, 65, 150}) {
      const auto ids = random_ids(tokens, config.vocabulary, 7);
      const auto expected = small.oracle.losses(ids);
      EXPECT_LT(largest_difference(doubles(all_losses(pass, ids)), expected), 3e-5) << "tokens " << tokens;
      EXPECT_LT(mean_difference(doubles(all_losses(pass, ids)), expected), 1e-5) << "tokens " << tokens;
    }
  }
}

// Activations are rounded to 8 bits before every product: single losses (3 to 10 nats here) move by up
// to two tenths, their mean by far less.
TEST(Forward, MatchesTheReferenceInBFloat16WithinItsRounding) {
  for (const Config& config : configs()) {
    const SmallModel small = small_model(config, DType::BF16);
    for (const Kernels kernels : {Kernels::Best, Kernels::Portable}) {
      const ForwardPass pass(small.model, ComputeType::BFloat16, kernels);
      for (const std::int64_t tokens : {2, 65, 150}) {
        const auto ids = random_ids(tokens, config.vocabulary, 7);
        const auto expected = small.oracle.losses(ids), got = doubles(all_losses(pass, ids));
        EXPECT_LT(largest_difference(got, expected), 0.25) << "tokens " << tokens;
        if (tokens < 60) continue;
        EXPECT_LT(mean_difference(got, expected), 0.012) << "tokens " << tokens;
      }
    }
  }
}

TEST(Forward, MatchesTheReferenceAtLongPositions) {
  Config config = odd_config();
  config.layers = {{2, 1, 8, 16}};
  config.hidden = 16;
  const SmallModel small = small_model(config);
  const ForwardPass pass(small.model, ComputeType::Float32);
  const auto ids = random_ids(2048, config.vocabulary, 3);
  EXPECT_LT(largest_difference(doubles(all_losses(pass, ids)), small.oracle.losses(ids)), 3e-5);
}

TEST(Forward, LossesBeginAtFirst) {
  const SmallModel small = small_model(odd_config());
  const ForwardPass pass(small.model, ComputeType::Float32);
  const auto ids = random_ids(300, 101, 5);
  const at::Tensor hidden = hidden_after(pass, ids, 3);
  const auto all = pass.losses(hidden, ids);
  ASSERT_EQ(all.size(), 299u);
  const auto some = pass.losses(hidden, ids, 150);
  ASSERT_EQ(some.size(), 149u);
  for (std::size_t i = 0; i < some.size(); ++i) EXPECT_NEAR(some[i], all[i + 150], 1e-5);
  EXPECT_TRUE(pass.losses(hidden, ids, 299).empty());
}

TEST(Forward, LogitsAreThoseOfTheReference) {
  const SmallModel small = small_model(odd_config());
  const ForwardPass pass(small.model, ComputeType::Float32);
  const auto ids = random_ids(9, 101, 5);
  const at::Tensor logits = pass.logits(pass.embed(ids));
  const reference::Matrix expected = small.oracle.logits(small.oracle.embed(ids));
  ASSERT_EQ(logits.numel(), static_cast<std::int64_t>(expected.data.size()));
  for (std::size_t i = 0; i < expected.data.size(); ++i) EXPECT_NEAR(logits.const_data_ptr<float>()[i], expected.data[i], 1e-5);
}

TEST(Forward, ObserverSeesTheInputsOfEverySiteInOrder) {
  const Config config = odd_config();
  const SmallModel small = small_model(config);
  const ForwardPass pass(small.model, ComputeType::BFloat16);
  std::vector<InputSite> sites;
  std::vector<std::int64_t> widths;
  pass.run_layer(pass.load_layer(0), pass.embed(random_ids(5, 101, 5)), [&](InputPlace place, const at::Tensor& input) {
    EXPECT_EQ(place.expert, -1);
    sites.push_back(place.site);
    widths.push_back(input.size(1));
    EXPECT_EQ(input.size(0), 5);
    EXPECT_EQ(input.scalar_type(), at::kBFloat16);
  });
  EXPECT_EQ(sites, std::vector<InputSite>(kInputSites.begin(), kInputSites.end()));
  EXPECT_EQ(widths, (std::vector<std::int64_t>{37, 60, 37, 53}));
}

TEST(Forward, ObservingALayerShowsWhatRunningItShows) {
  for (const ComputeType type : {ComputeType::Float32, ComputeType::BFloat16}) {
    const SmallModel small = small_model(configs()[5], DType::BF16);
    const ForwardPass pass(small.model, type);
    const LayerWeights layer = pass.load_layer(0);
    const at::Tensor hidden = pass.embed(random_ids(40, 131, 1));
    std::vector<at::Tensor> run, observed;
    pass.run_layer(layer, hidden, [&](InputPlace, const at::Tensor& input) { run.push_back(input.clone()); });
    pass.observe_layer(layer, hidden, [&](InputPlace, const at::Tensor& input) { observed.push_back(input.clone()); });
    ASSERT_EQ(run.size(), kInputSites.size());
    ASSERT_EQ(observed.size(), run.size());
    for (std::size_t i = 0; i < run.size(); ++i) EXPECT_TRUE(observed[i].equal(run[i])) << i;
  }
}

TEST(Forward, ReplacedWeightsAreUsed) {
  SmallModel small = small_model(configs()[5], DType::BF16);
  for (const ComputeType type : {ComputeType::Float32, ComputeType::BFloat16}) {
    const ForwardPass pass(small.model, type);
    const auto ids = random_ids(33, 131, 5);
    for (const char* name : {"self_attn.q_proj.weight", "self_attn.v_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight"}) {
      LayerWeights layer = pass.load_layer(0);
      const at::Tensor plain = pass.run_layer(layer, pass.embed(ids));
      layer.tensors.at(name) = layer.tensors.at(name) * 2;
      const at::Tensor got = pass.run_layer(layer, pass.embed(ids));
      EXPECT_FALSE(got.equal(plain)) << name;
      pass.prepare(layer);
      EXPECT_TRUE(got.equal(pass.run_layer(layer, pass.embed(ids)))) << name;
      layer.tensors.at(name).mul_(0.5);
      EXPECT_TRUE(plain.equal(pass.run_layer(layer, pass.embed(ids)))) << name;
      reference::Forward oracle = small.oracle;
      for (double& w : oracle.weights.at(std::string("model.layers.0.") + name).data) w *= 2;
      const reference::Matrix expected = oracle.run_layer(0, oracle.embed(ids));
      double squares = 0, size = 0;
      for (std::size_t i = 0; i < expected.data.size(); ++i) {
        const double difference = got.const_data_ptr<float>()[i] - expected.data[i];
        squares += difference * difference;
        size += expected.data[i] * expected.data[i];
      }
      EXPECT_LT(std::sqrt(squares / size), type == ComputeType::Float32 ? 2e-6 : 0.02) << name;
    }
  }
}

// Central differences of the double reference: d(sum of losses) / d(linear's output, layer's input).
TEST(Forward, GradientsMatchFiniteDifferences) {
  Config config = odd_config();
  config.layers.pop_back();
  const SmallModel small = small_model(config);
  const ForwardPass pass(small.model, ComputeType::Float32);
  const auto ids = random_ids(7, config.vocabulary, 11);
  at::Tensor gradient = pass.loss_gradient(hidden_after(pass, ids, 2), ids);
  std::map<std::pair<std::int64_t, std::string>, at::Tensor> outputs;
  for (std::int64_t layer = 1; layer >= 0; --layer) {
    gradient = pass.backward_layer(pass.load_layer(layer), hidden_after(pass, ids, layer), gradient,
                                   [&](std::string_view name, const at::Tensor& g) { outputs[{layer, std::string(name)}] = g; });
  }
  EXPECT_EQ(outputs.size(), 14u);
  const auto total = [&](const reference::Forward& oracle, const reference::Matrix& embedded) {
    const auto losses = oracle.losses(oracle.run_layer(1, oracle.run_layer(0, embedded)), ids);
    double sum = 0;
    for (const double loss : losses) sum += loss;
    return sum;
  };
  constexpr double kStep = 1e-5;
  const reference::Matrix embedded = small.oracle.embed(ids);
  for (const auto& [key, g] : outputs) {
    for (const auto& [row, column] : {std::pair{0, 0}, {3, 5}, {6, 17}, {5, 2}}) {
      double ends[2];
      for (const int side : {0, 1}) {
        reference::Forward oracle = small.oracle;
        oracle.on_output = [&, row = row, column = column](std::int64_t layer, std::string_view name, reference::Matrix& y) {
          if (layer == key.first && name == key.second) y.at(row, column) += side ? kStep : -kStep;
        };
        ends[side] = total(oracle, embedded);
      }
      EXPECT_NEAR(g[row][column].item().toDouble(), (ends[1] - ends[0]) / (2 * kStep), 1e-4) << key.second << " " << row << " " << column;
    }
  }
  for (const auto& [row, column] : {std::pair{0, 0}, {3, 5}, {6, 17}}) {
    double ends[2];
    for (const int side : {0, 1}) {
      reference::Matrix moved = embedded;
      moved.at(row, column) += side ? kStep : -kStep;
      ends[side] = total(small.oracle, moved);
    }
    EXPECT_NEAR(gradient[row][column].item().toDouble(), (ends[1] - ends[0]) / (2 * kStep), 1e-4);
  }
}

// The same for gains of norms and for weights.
TEST(Forward, TensorGradientsMatchFiniteDifferences) {
  Config config = odd_config();
  config.layers.pop_back();
  const SmallModel small = small_model(config);
  const ForwardPass pass(small.model, ComputeType::Float32);
  const auto ids = random_ids(7, config.vocabulary, 11);
  const at::Tensor last = hidden_after(pass, ids, 2);
  at::Tensor logits_gradient = at::softmax(pass.logits(last), 1);
  for (std::size_t p = 0; p < 7; ++p) {
    if (p == 6) logits_gradient[6].zero_();
    if (p < 6) logits_gradient[static_cast<std::int64_t>(p)][ids[p + 1]] -= 1;
  }
  std::map<std::string, at::Tensor> found;
  at::Tensor gradient = pass.head_backward(last, logits_gradient, &found["model.norm.weight"]);
  EXPECT_LT((gradient - pass.loss_gradient(last, ids)).abs().max().item().toFloat(), 1e-5);
  const std::vector<std::string> names{"input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.k_proj.weight", "mlp.down_proj.weight"};
  for (std::int64_t layer = 1; layer >= 0; --layer) {
    const at::Tensor plain = pass.backward_layer(pass.load_layer(layer), hidden_after(pass, ids, layer), gradient, {});
    gradient = pass.backward_tensors(pass.load_layer(layer), hidden_after(pass, ids, layer), gradient, names,
                                     [&](std::string_view name, const at::Tensor& g) { found["model.layers." + std::to_string(layer) + "." + std::string(name)] = g.clone(); });
    EXPECT_TRUE(plain.equal(gradient));
  }
  ASSERT_EQ(found.size(), 9u);
  constexpr double kStep = 1e-5;
  for (const auto& [name, g] : found) {
    for (const std::int64_t at : {0, 17, 36}) {
      double ends[2];
      for (const int side : {0, 1}) {
        reference::Forward oracle = small.oracle;
        oracle.weights.at(name).data.at(static_cast<std::size_t>(at)) += side ? kStep : -kStep;
        ends[side] = 0;
        for (const double loss : oracle.losses(oracle.run_layer(1, oracle.run_layer(0, oracle.embed(ids))), ids)) ends[side] += loss;
      }
      EXPECT_NEAR(g.reshape(-1)[at].item().toDouble(), (ends[1] - ends[0]) / (2 * kStep), 2e-4) << name << " " << at;
    }
  }
}

TEST(Forward, LossGradientInBlocksIsThatOfSinglePositions) {
  const SmallModel small = small_model(odd_config());
  const ForwardPass pass(small.model, ComputeType::Float32);
  const auto ids = random_ids(290, 101, 5);
  const at::Tensor hidden = pass.embed(ids);
  const at::Tensor whole = pass.loss_gradient(hidden, ids);
  for (const std::int64_t p : {0, 127, 128, 200, 288}) {
    const std::vector<std::int32_t> pair{ids[static_cast<std::size_t>(p)], ids[static_cast<std::size_t>(p + 1)]};
    const at::Tensor one = pass.loss_gradient(hidden.narrow(0, p, 2), pair);
    EXPECT_LT((whole[p] - one[0]).abs().max().item().toFloat(), 1e-5);
  }
  EXPECT_EQ(whole[289].abs().max().item().toFloat(), 0);
}

TEST(Forward, BFloat16GradientsAreNearThoseOfFloat32) {
  const SmallModel small = small_model(odd_config(), DType::BF16);
  const ForwardPass exact(small.model, ComputeType::Float32), rounded(small.model, ComputeType::BFloat16);
  const auto ids = random_ids(40, 101, 5);
  const at::Tensor hidden = hidden_after(exact, ids, 2);
  const at::Tensor gradient = exact.loss_gradient(hidden, ids);
  const auto relative = [](const at::Tensor& a, const at::Tensor& b) { return ((a - b).norm() / b.norm()).item().toDouble(); };
  EXPECT_LT(relative(rounded.loss_gradient(hidden, ids), gradient), 0.02);
  const auto backward = [&](const ForwardPass& pass) { return pass.backward_layer(pass.load_layer(2), hidden, gradient, {}); };
  EXPECT_LT(relative(backward(rounded), backward(exact)), 0.02);
}

TEST(Forward, ObserverMayKeepWhatItSaw) {
  const SmallModel small = small_model(configs()[5], DType::BF16);
  const ForwardPass pass(small.model, ComputeType::BFloat16);
  const LayerWeights layer = pass.load_layer(0);
  std::vector<at::Tensor> kept, copies;
  for (std::uint32_t window = 0; window < 4; ++window) {
    pass.run_layer(layer, pass.embed(random_ids(40, 131, window)), [&](InputPlace, const at::Tensor& input) {
      kept.push_back(input);
      copies.push_back(input.clone());
    });
  }
  for (std::size_t i = 0; i < kept.size(); ++i) EXPECT_TRUE(kept[i].equal(copies[i])) << i;
}

TEST(Forward, SameBitsForAnyNumberOfThreads) {
  for (const ComputeType type : {ComputeType::Float32, ComputeType::BFloat16}) {
    const SmallModel small = small_model(configs()[5], DType::BF16);
    const ForwardPass pass(small.model, type);
    std::vector<std::vector<float>> alone, pooled(9);
    for (std::uint32_t window = 0; window < 9; ++window) alone.push_back(all_losses(pass, random_ids(100 + 7 * window, 131, window)));
    for (const int threads : {1, 2, 3, 8}) {
      ThreadPool pool(threads);
      pool.for_each(9, [&](std::int64_t window) {
        
        pooled[static_cast<std::size_t>(window)] = all_losses(pass, random_ids(100 + 7 * window, 131, static_cast<std::uint32_t>(window)));
      });
      EXPECT_EQ(pooled, alone) << threads << " threads";
    }
  }
}

TEST(Forward, RefusesIdsOutsideTheEmbedding) {
  const SmallModel small = small_model(odd_config());
  const ForwardPass pass(small.model, ComputeType::Float32);
  EXPECT_THROW(pass.embed(std::vector<std::int32_t>{1, 101}), Error);
  EXPECT_THROW(pass.embed(std::vector<std::int32_t>{-1}), Error);
  EXPECT_THROW(pass.load_layer(3), Error);
  const at::Tensor hidden = pass.embed(std::vector<std::int32_t>{1, 2});
  EXPECT_THROW(pass.losses(hidden, std::vector<std::int32_t>{1, 101}), Error);
  EXPECT_THROW(pass.losses(hidden, std::vector<std::int32_t>{1}), Error);
}

}  // namespace
}  // namespace miq
