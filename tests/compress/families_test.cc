// Every family through every method on small random models: what is stored is what was asked for, all else stays as
// it was. Mixtures of experts: each expert's inputs against a reference that routes the tokens itself, and one
// expert that no token reaches.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <numeric>

#include "miq/base/error.h"
#include "miq/compress/compress.h"
#include "miq/compress/hessian.h"
#include "miq/compress/walk.h"
#include "miq/formats/packed_matrix.h"
#include "tests/model/small_model.h"

namespace miq {
namespace {

constexpr std::int64_t kVocabulary = 67, kSeqlen = 24, kExperts = 5;

Config family(const std::string& name) {
  Config c;
  c.architecture = name;
  c.vocabulary = kVocabulary;
  c.hidden = 32;
  c.max_positions = 64;
  c.layers.assign(2, {4, 2, 8, 48});
  if (name == "mistral") c.layers[0].window = c.layers[1].window = 7;
  if (name == "opt") {
    c.norm = NormKind::Layer;
    c.activation = Activation::Relu;
    c.gated_mlp = false;
    c.query_bias = c.output_bias = c.mlp_bias = true;
    c.positions = Positions::Learned;
    c.position_offset = 2;
    c.tied_head = true;
    for (LayerConfig& layer : c.layers) layer.kv_heads = layer.heads;
  }
  if (name == "qwen") {
    c.query_bias = true;
    for (LayerConfig& layer : c.layers) layer.kv_heads = layer.heads;
  }
  if (name == "qwen2" || name == "qwen2_moe") c.query_bias = true;
  if (name == "qwen3" || name == "qwen3_moe") c.query_key_norm = true;
  if (name == "mixtral" || name.ends_with("_moe")) {
    for (LayerConfig& layer : c.layers) layer.experts = kExperts, layer.mlp_width = 20;
    c.experts_per_token = 2;
    c.normalise_experts = name != "qwen2_moe";
    if (name == "qwen2_moe") c.layers[0].shared_width = c.layers[1].shared_width = 28;
    if (name == "qwen3_moe") c.layers[0].experts = 0;  // a plain layer among the others
  }
  return c;
}

std::vector<float> floats(const Model& model, const std::string& name) {
  const at::Tensor values = to_torch(model.tensors.at(name), name, at::kFloat).contiguous();
  return {values.const_data_ptr<float>(), values.const_data_ptr<float>() + values.numel()};
}

std::string router_name(const Model& model, std::int64_t layer) {
  const Architecture& table = architecture(model.config.architecture);
  return layer_tensor_name(table, layer, rule_name(table, Role::Router));
}

// Rows v, -v, u, -u, 0 of a router: two of the first four are above 0, so no token goes to the last expert.
void starve_last_expert(Model& model, std::int64_t layer) {
  const std::string name = router_name(model, layer);
  std::vector<float> router = floats(model, name);
  const auto n = static_cast<std::size_t>(model.config.hidden);
  for (std::size_t j = 0; j < n; ++j) {
    router[n + j] = -router[j];
    router[3 * n + j] = -router[2 * n + j];
    router[4 * n + j] = 0;
  }
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(router.data());
  model.tensors[name] =
      dense_tensor(DType::F32, {kExperts, model.config.hidden}, Blob(std::vector<std::uint8_t>(bytes, bytes + router.size() * 4)));
}

Calibration calibration_windows(std::int64_t windows = 20) {
  Calibration calibration;
  for (std::int64_t w = 0; w < windows; ++w)
    calibration.windows.push_back(test::random_ids(kSeqlen, kVocabulary, static_cast<std::uint32_t>(100 + w)));
  calibration.description = {{"text", "none"}};
  return calibration;
}

std::vector<CompressOptions> all_methods() {
  std::vector<CompressOptions> list;
  const auto add = [&](const char* method) -> CompressOptions& {
    list.emplace_back().method = method;
    list.back().compute = ComputeType::Float32;
    return list.back();
  };
  for (const char* method : {"sparsegpt", "wanda", "magnitude"}) {
    add(method).sparsity = 0.5;
    CompressOptions& pattern = add(method);
    pattern.prune_n = 2, pattern.prune_m = 4, pattern.wbits = 4;
  }
  for (const char* method : {"rtn", "gptq"}) add(method).wbits = 3;
  for (const char* method : {"enhanced", "mi", "mixed"}) {
    add(method).target_avg_bits = 3.3;
    CompressOptions& both = add(method);
    both.target_avg_bits = 4.1, both.sparsity = 0.4;
    if (method[0] == 'm') list[list.size() - 2].group_size = 16, both.group_size = 16;
  }
  return list;
}

class Families : public testing::TestWithParam<const char*> {};

// Exact sums over the stored matrices.
void check_stored(const Model& dense, const Model& stored, const Recipe& recipe) {
  const std::string what = dense.config.architecture + " " + recipe.to_json().dump();
  std::uint64_t weights = 0, zeros = 0, kept = 0, codes = 0;
  for (const ExpectedTensor& expected : expected_tensors(dense.config)) {
    const Tensor& tensor = stored.tensors.at(expected.name);
    ASSERT_EQ(tensor.shape, dense.tensors.at(expected.name).shape) << what << " " << expected.name;
    if (!expected.linear) {
      EXPECT_EQ(floats(stored, expected.name), floats(dense, expected.name)) << what << " " << expected.name;
      continue;
    }
    const std::vector<float> values = floats(stored, expected.name);
    EXPECT_TRUE(std::any_of(values.begin(), values.end(), [](float value) { return value != 0; })) << what << " " << expected.name;
    weights += values.size();
    if (recipe.quantize) {
      ASSERT_EQ(tensor.encoding, Encoding::Packed) << what << " " << expected.name;
      const PackedBits bits = packed_bits(tensor, expected.name);
      kept += bits.kept, codes += bits.codes, zeros += bits.weights - bits.kept;
    } else {
      zeros += static_cast<std::uint64_t>(std::count(values.begin(), values.end(), 0.0f));
    }
  }
  EXPECT_NEAR(static_cast<double>(zeros) / static_cast<double>(weights), recipe.sparsity, 0.006) << what;
  if (!recipe.quantize) return;
  const double average = static_cast<double>(codes) / static_cast<double>(kept), target = recipe.width ? recipe.width : *recipe.target;
  EXPECT_LE(average, target + 1e-12) << what;
  EXPECT_GT(average, target - 0.1) << what;
}

TEST_P(Families, GoThroughEveryMethod) {
  const Config config = family(GetParam());
  const Model model = test::small_model(config).model;
  for (const CompressOptions& options : all_methods()) {
    const Recipe recipe = resolve(options, config);
    ThreadPool pool(2);
    const CompressResult result = compress(model, calibration_windows(), recipe, pool);
    EXPECT_EQ(result.fallbacks, 0) << recipe.to_json();
    check_stored(model, result.model, recipe);
    // Nothing is NaN, and the container gives back what was made.
    const ForwardPass forward(result.model, ComputeType::Float32);
    at::Tensor hidden = forward.embed(calibration_windows(1).windows[0]);
    for (std::int64_t l = 0; l < forward.layers(); ++l) hidden = forward.run_layer(forward.load_layer(l), hidden);
    EXPECT_TRUE(std::isfinite(hidden.sum().item<double>())) << recipe.to_json();
  }
}

TEST_P(Families, DeletedLayersStayDeleted) {
  Config config = family(GetParam());
  config.layers.push_back(config.layers[1]);
  config.layers[1] = {};
  config.layers[1].identity = true;
  const Model model = test::small_model(config).model;
  for (const CompressOptions& options : all_methods()) {
    const Recipe recipe = resolve(options, config);
    ThreadPool pool(2);
    check_stored(model, compress(model, calibration_windows(), recipe, pool).model, recipe);
  }
}

INSTANTIATE_TEST_SUITE_P(Compress, Families,
                         testing::Values("llama", "mistral", "opt", "qwen", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe"),
                         [](const auto& test) { return std::string(test.param); });

// ---- mixtures of experts ----

using Rows = std::vector<std::vector<double>>;  // tokens of one expert

std::vector<double> product(const std::vector<float>& matrix, const std::vector<double>& x) {
  std::vector<double> y(matrix.size() / x.size(), 0.0);
  for (std::size_t r = 0; r < y.size(); ++r)
    for (std::size_t j = 0; j < x.size(); ++j) y[r] += static_cast<double>(matrix[r * x.size() + j]) * x[j];
  return y;
}

// Routes the tokens of a layer by itself: the inputs of every expert's first and last matrices.
struct Routed {
  std::map<std::int64_t, Rows> inputs, middles;
};

Routed route(const Model& model, std::int64_t layer, const Rows& tokens) {
  const Architecture& table = architecture(model.config.architecture);
  const std::vector<float> router = floats(model, router_name(model, layer));
  const auto weight = [&](Role role, std::int64_t expert) {
    return floats(model, layer_tensor_name(table, layer, expert_name(rule_name(table, role), expert)));
  };
  Routed routed;
  for (const std::vector<double>& x : tokens) {
    const std::vector<double> score = product(router, x);
    std::vector<std::int64_t> order(score.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [&](std::int64_t a, std::int64_t b) { return score[static_cast<std::size_t>(a)] > score[static_cast<std::size_t>(b)]; });
    for (std::int64_t k = 0; k < model.config.experts_per_token; ++k) {
      const std::int64_t expert = order[static_cast<std::size_t>(k)];
      const std::vector<double> gate = product(weight(Role::ExpertGate, expert), x), up = product(weight(Role::ExpertUp, expert), x);
      std::vector<double> middle(gate.size());
      for (std::size_t i = 0; i < middle.size(); ++i) middle[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      routed.inputs[expert].push_back(x);
      routed.middles[expert].push_back(middle);
    }
  }
  return routed;
}

void expect_hessian(const at::Tensor& hessian, const Rows& rows, const std::string& what) {
  const std::size_t n = rows.front().size();
  ASSERT_EQ(hessian.size(0), static_cast<std::int64_t>(n)) << what;
  double largest = 0, difference = 0;
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      double sum = 0;
      for (const auto& row : rows) sum += row[i] * row[j];
      sum /= static_cast<double>(rows.size());
      largest = std::max(largest, std::abs(sum));
      difference = std::max(difference, std::abs(sum - hessian.const_data_ptr<float>()[i * n + j]));
    }
  }
  EXPECT_LT(difference, 1e-5 * largest) << what;
}

TEST(Mixtures, EveryExpertHasTheHessianOfTheTokensRoutedToIt) {
  for (const char* name : {"mixtral", "qwen2_moe", "qwen3_moe"}) {
    Model model = test::small_model(family(name)).model;
    starve_last_expert(model, 1);
    const ForwardPass forward(model, ComputeType::Float32);
    const Calibration calibration = calibration_windows();
    // What the layer's MLP reads is taken from the forward pass; the rest is computed here.
    Rows tokens;
    for (const auto& ids : calibration.windows) {
      const at::Tensor hidden = forward.run_layer(forward.load_layer(0), forward.embed(ids));
      forward.observe_layer(forward.load_layer(1), hidden, [&](InputPlace place, const at::Tensor& input) {
        if (place != InputPlace{InputSite::Mlp}) return;
        const float* x = input.const_data_ptr<float>();
        for (std::int64_t t = 0; t < input.size(0); ++t, x += input.size(1)) tokens.emplace_back(x, x + input.size(1));
      });
    }
    const Routed routed = route(model, 1, tokens);
    EXPECT_EQ(routed.inputs.size(), static_cast<std::size_t>(kExperts - 1)) << name;

    ThreadPool pool(2);
    Walk walk(forward, calibration, pool);
    walk.advance(forward.load_layer(0));
    std::map<InputPlace, HessianSum> sums;
    walk.observe(forward.load_layer(1), [&](InputPlace place, std::span<const at::Tensor> inputs) {
      sums.try_emplace(place, inputs.front().size(1)).first->second.add(inputs, pool);
    }, false);
    // Attention's two places, two an expert, and two of the shared expert.
    EXPECT_EQ(sums.size(), 2u + 2 * (kExperts - 1) + (std::string(name) == "qwen2_moe" ? 2 : 0)) << name;
    for (const auto& [expert, rows] : routed.inputs) {
      const std::string what = std::string(name) + " expert " + std::to_string(expert);
      const HessianSum& first = sums.at({InputSite::Mlp, expert});
      ASSERT_EQ(first.tokens(), static_cast<std::int64_t>(rows.size())) << what;
      expect_hessian(first.mean(), rows, what);
      expect_hessian(sums.at({InputSite::MlpOutput, expert}).mean(), routed.middles.at(expert), what);
    }
    if (std::string(name) == "qwen2_moe") expect_hessian(sums.at({InputSite::Mlp}).mean(), tokens, "shared expert");
  }
}

TEST(Mixtures, AnExpertWithoutTokensIsRoundedAndReported) {
  for (const char* name : {"mixtral", "qwen2_moe"}) {
    const Config config = family(name);
    Model model = test::small_model(config).model;
    for (std::int64_t l : {0, 1}) starve_last_expert(model, l);
    for (const CompressOptions& options : all_methods()) {
      const Recipe recipe = resolve(options, config);
      const std::string what = std::string(name) + " " + recipe.to_json().dump();
      ThreadPool pool(2);
      std::vector<std::string> lines;
      const CompressResult result =
          compress(model, calibration_windows(), recipe, pool, {}, [&](const std::string& line) { lines.push_back(line); });
      const bool looks = options.method != "rtn" && options.method != "magnitude";
      EXPECT_EQ(result.unseen, looks ? 6 : 0) << what;
      EXPECT_EQ(result.fallbacks, result.unseen) << what;
      EXPECT_EQ(std::count_if(lines.begin(), lines.end(),
                              [](const std::string& line) { return line.find("no token reached") != std::string::npos; }),
                result.unseen);
      check_stored(model, result.model, recipe);
      if (!looks) continue;
      std::int64_t without = 0;
      for (const Json& matrix : result.model.statistics["matrices"]) {
        if (matrix.contains("tokens") && matrix["tokens"] == 0) ++without;
      }
      EXPECT_EQ(without, 6) << what;
    }
  }
}

TEST(Mixtures, TheBytesDoNotDependOnThreads) {
  const Config config = family("qwen2_moe");
  Model model = test::small_model(config).model;
  starve_last_expert(model, 0);
  for (const CompressOptions& options : all_methods()) {
    const Recipe recipe = resolve(options, config);
    std::vector<std::vector<float>> expected;
    for (int threads : {1, 3}) {
      ThreadPool pool(threads);
      const Model made = compress(model, calibration_windows(), recipe, pool).model;
      std::vector<std::vector<float>> values;
      for (const auto& [name, tensor] : made.tensors) values.push_back(floats(made, name));
      if (expected.empty()) expected = values;
      EXPECT_EQ(values, expected) << recipe.to_json();
    }
  }
}

TEST(Mixtures, SurviveTheContainer) {
  const Config config = family("qwen2_moe");
  const Model model = test::small_model(config).model;
  CompressOptions options;
  options.method = "mixed";
  options.wbits = 4, options.group_size = 16;
  ThreadPool pool(2);
  const Model made = compress(model, calibration_windows(), resolve(options, config), pool).model;
  const std::string path = testing::TempDir() + "/mixture.miq";
  save_model(made, path);
  EXPECT_EQ(weights_digest(load_model(path), pool), weights_digest(made, pool));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace miq
