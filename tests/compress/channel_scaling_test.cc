// Scales are folded away: the dense model computes what it did, with other norms and matrices. On inputs with a few large channels
// rounding then loses less.
#include "miq/compress/channel_scaling.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <cmath>

#include "miq/base/error.h"
#include "miq/compress/compress.h"
#include "tests/model/small_model.h"

namespace miq {
namespace {

Config family(const std::string& name) {
  Config c;
  c.architecture = name;
  c.vocabulary = 67;
  c.hidden = 32;
  c.max_positions = 64;
  c.layers.assign(2, {4, 2, 8, 48});
  if (name == "opt") {
    c.norm = NormKind::Layer;
    c.activation = Activation::Relu;
    c.gated_mlp = false;
    c.query_bias = c.output_bias = c.mlp_bias = c.tied_head = true;
    c.positions = Positions::Learned;
    c.position_offset = 2;
  }
  if (name == "opt" || name == "qwen") c.layers[0].kv_heads = c.layers[1].kv_heads = 4;
  c.query_bias = c.query_bias || name.starts_with("qwen");
  if (name == "mixtral" || name == "qwen2_moe") {
    for (LayerConfig& layer : c.layers) layer.experts = 5, layer.mlp_width = 20;
    c.experts_per_token = 2;
    if (name == "qwen2_moe") c.layers[0].shared_width = c.layers[1].shared_width = 28;
  }
  return c;
}

// Every third channel of the norms' outputs is eight times as large.
Model with_large_channels(Model model) {
  for (auto& [name, tensor] : model.tensors) {
    if (name.find("norm.weight") == std::string::npos || tensor.shape != Shape{32}) continue;
    at::Tensor gain = to_torch(tensor, name, at::kFloat).clone();
    for (int j = 0; j < 32; j += 3) gain.data_ptr<float>()[j] *= 8;
    const auto* bytes = static_cast<const std::uint8_t*>(gain.const_data_ptr());
    tensor = dense_tensor(DType::F32, tensor.shape, Blob(std::vector<std::uint8_t>(bytes, bytes + gain.nbytes())));
  }
  return model;
}

Calibration windows() {
  Calibration calibration;
  for (std::uint32_t w = 0; w < 12; ++w) calibration.windows.push_back(test::random_ids(24, 67, 100 + w));
  calibration.description = {{"text", "none"}};
  return calibration;
}

std::vector<float> losses(const Model& model, ComputeType type = ComputeType::Float32) {
  const ForwardPass pass(model, type);
  const auto ids = test::random_ids(40, 67, 5);
  at::Tensor hidden = pass.embed(ids);
  for (std::int64_t l = 0; l < pass.layers(); ++l) hidden = pass.run_layer(pass.load_layer(l), hidden);
  return pass.losses(hidden, ids);
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(static_cast<double>(a[i]) - b[i]));
  return largest;
}

Recipe recipe_of(const char* method, const Config& config, std::optional<double> alpha = {}) {
  CompressOptions options;
  options.method = method;
  options.compute = ComputeType::Float32;
  if (options.method == "mixed" || options.method == "enhanced") options.target_avg_bits = 3.3;
  else options.wbits = 3;
  if (options.method != "enhanced") options.group_size = 16;
  options.channel_scaling = true;
  options.scaling_alpha = alpha;
  return resolve(options, config);
}

TEST(ChannelScaling, LeavesTheFunctionOfTheModel) {
  ThreadPool pool(2);
  for (const char* name : {"llama", "opt", "qwen", "qwen2", "mixtral", "qwen2_moe"}) {
    const Model model = with_large_channels(test::small_model(family(name)).model);
    const std::vector<float> before = losses(model);
    for (const std::optional<double> alpha : {std::optional<double>(), std::optional<double>(0.7)}) {
      double done = 0;
      const ChannelScaling scaled = scale_channels(model, windows(), recipe_of("gptq", model.config, alpha), pool, {}, [&](double share) { done += share; });
      EXPECT_NEAR(done, 1, 1e-9);
      validate(scaled.model);
      EXPECT_LT(difference(losses(scaled.model), before), 2e-3) << name;
      ASSERT_EQ(scaled.record.size(), 2u);
      int changed = 0;
      for (const auto& [tensor_name, tensor] : scaled.model.tensors) {
        const Blob now = decode(tensor, tensor_name), then = decode(model.tensors.at(tensor_name), tensor_name);
        const bool same = now.size() == then.size() && std::equal(now.bytes().begin(), now.bytes().end(), then.bytes().begin());
        changed += !same;
        EXPECT_TRUE(same || tensor_name.starts_with(architecture(model.config.architecture).layer_prefix)) << tensor_name;
      }
      EXPECT_GT(changed, 8) << name;
      for (const Json& layer : scaled.record) {
        const Json& mlp = layer.at("mlp");
        if (alpha) {
          EXPECT_EQ(mlp.at("alpha"), 0.7);
        } else {
          EXPECT_LE(mlp.at("predicted").get<double>(), 1) << name;
        }
        EXPECT_EQ(layer.at("mlp_output").is_array(), model.config.layers[0].experts > 0);
      }
    }
  }
}

TEST(ChannelScaling, RoundedNormsAreMadeUpForInTheWeights) {
  ThreadPool pool(2);
  const Model model = test::small_model(family("llama"), DType::BF16).model;
  const ChannelScaling scaled = scale_channels(model, windows(), recipe_of("gptq", model.config, 0.5), pool, {}, {});
  for (const auto& [name, tensor] : scaled.model.tensors) EXPECT_EQ(tensor.dtype, model.tensors.at(name).dtype) << name;
  EXPECT_LT(difference(losses(scaled.model), losses(model)), 0.15);  // weights are bfloat16, so rounded once more
}

TEST(ChannelScaling, EveryMethodTakesItAndNearestGains) {
  ThreadPool pool(2);
  const Model model = with_large_channels(test::small_model(family("llama")).model);
  for (const char* method : {"rtn", "gptq", "sparsegpt", "enhanced", "mixed"}) {
    Recipe recipe = recipe_of(method, model.config);
    const CompressResult with = compress(model, windows(), recipe, pool);
    EXPECT_EQ(with.model.statistics.at("channel_scaling").size(), 2u) << method;
    EXPECT_EQ(with.model.method.at("channel_scaling"), "search");
    for (float loss : losses(with.model)) ASSERT_TRUE(std::isfinite(loss)) << method;
    recipe.channel_scaling = false;
    const CompressResult without = compress(model, windows(), recipe, pool);
    EXPECT_FALSE(without.model.statistics.contains("channel_scaling"));
    if (std::string(method) != "rtn") continue;
    const auto error = [](const CompressResult& result) {
      double sum = 0;
      const std::vector<float> dense = losses(with_large_channels(test::small_model(family("llama")).model)), now = losses(result.model);
      for (std::size_t i = 0; i < now.size(); ++i) sum += std::pow(now[i] - dense[i], 2);
      return sum;
    };
    EXPECT_LT(error(with), error(without));
  }
}

TEST(ChannelScaling, OddRequestsAreRefused) {
  CompressOptions options;
  options.sparsity = 0.5;
  options.channel_scaling = true;
  EXPECT_THROW(resolve(options, family("llama")), UsageError);  // nothing is quantized
  options.wbits = 4;
  options.scaling_alpha = 1.5;
  EXPECT_THROW(resolve(options, family("llama")), UsageError);
}

}  // namespace
}  // namespace miq
