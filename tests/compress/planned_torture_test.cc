// The methods that plan bits over the whole model, on models whose layers break solvers: what the linears read (ranks of one, dead and massive
// channels, units from 1e-15 to 1e9, five tokens, nothing at all) times what their weights are (constant rows, zeros, a single spike, subnormals,
// 1e8). The plan's walks, mutual information and clusters meet it as well as the solver. Whatever happens, every value and scale is finite, each
// fallback is counted, named in the statistics and on the way, and outputs are no worse than with the nearest values of the same groups and zeros;
// a model whose activations leave float32 is refused with the place.
#include <gtest/gtest.h>

#include <ATen/ops/zeros.h>

#include <cmath>
#include <map>
#include <string>

#include "miq/base/error.h"
#include "miq/compress/compress.h"
#include "miq/compress/hessian.h"
#include "miq/compress/quantizer.h"
#include "miq/compress/walk.h"
#include "miq/formats/packed_matrix.h"
#include "tests/model/small_model.h"

namespace miq {
namespace {

constexpr std::int64_t kHidden = 32, kVocabulary = 67;

struct Inputs {
  const char* name;
  std::int64_t windows, tokens;
  float (*gain)(std::int64_t channel);            // of both norms, times what it was
  void (*embedding)(float* row, std::int64_t id);  // [kHidden]
  bool large = false;                              // may leave the range of float32
};
constexpr float plain(std::int64_t) { return 1; }
constexpr void as_is(float*, std::int64_t) {}
constexpr Inputs kInputs[] = {
    {"plain", 12, 16, plain, as_is},
    {"fewer tokens than channels", 1, 5, plain, as_is},
    {"one token again and again", 4, 16, plain, [](float* row, std::int64_t) { for (std::int64_t j = 0; j < kHidden; ++j) row[j] = 0.1f * static_cast<float>(j % 7) - 0.3f; }},
    {"rank three, copies", 8, 16, plain, [](float* row, std::int64_t) { for (std::int64_t j = 0; j < kHidden; ++j) row[j] = row[j % 3]; }},
    {"a quarter dead", 8, 16, [](std::int64_t j) { return j % 4 ? 1.0f : 0.0f; }, as_is},
    {"all but one dead", 8, 16, [](std::int64_t j) { return j ? 0.0f : 1.0f; }, as_is},
    {"all dead", 4, 16, [](std::int64_t) { return 0.0f; }, as_is},
    {"constant", 4, 16, plain, [](float* row, std::int64_t) { std::fill(row, row + kHidden, 1.0f); }},
    {"one massive channel", 8, 16, [](std::int64_t j) { return j == 7 ? 1e4f : 1.0f; }, as_is, true},
    {"one channel of a million", 8, 16, [](std::int64_t j) { return j == 7 ? 1e6f : 1.0f; }, as_is, true},
    {"twelve decades", 8, 16, [](std::int64_t j) { return std::pow(10.0f, static_cast<float>(j % 13) - 6); }, as_is, true},
    {"tiny", 8, 16, [](std::int64_t) { return 1e-15f; }, as_is},
    {"huge", 8, 16, [](std::int64_t) { return 1e9f; }, as_is, true},
    {"one token in seventeen", 8, 17, plain, [](float* row, std::int64_t id) { if (id % 17) std::fill(row, row + kHidden, 0.0f); }},
};

struct Weights {
  const char* name;
  void (*change)(float* w, std::int64_t row, std::int64_t col);
  bool large = false;
};
constexpr Weights kWeights[] = {
    {"plain", [](float*, std::int64_t, std::int64_t) {}},
    {"constant rows", [](float* w, std::int64_t row, std::int64_t) { *w = 0.1f * static_cast<float>(row % 13 - 5); }},
    {"zero", [](float* w, std::int64_t, std::int64_t) { *w = 0; }},
    {"zero rows", [](float* w, std::int64_t row, std::int64_t) { if (row % 3 == 0) *w = 0; }},
    {"one spike", [](float* w, std::int64_t row, std::int64_t col) { if (row == 3 && col == 5) *w = 1e6f; }, true},
    {"subnormal", [](float* w, std::int64_t, std::int64_t) { *w *= 1e-40f; }},
    {"huge", [](float* w, std::int64_t, std::int64_t) { *w *= 1e8f; }, true},
    {"two values", [](float* w, std::int64_t, std::int64_t) { *w = *w > 0 ? 0.5f : -0.25f; }},
    {"one sign", [](float* w, std::int64_t, std::int64_t) { *w = std::abs(*w) + 3; }},
};

Config tortured_config() {
  Config config;
  config.architecture = "llama";
  config.vocabulary = kVocabulary;
  config.hidden = kHidden;
  config.max_positions = 64;
  config.layers.assign(1, {4, 2, 8, 48});
  return config;
}

Tensor changed(const Tensor& tensor, const std::string& name, const std::function<void(float*, std::int64_t, std::int64_t)>& change) {
  const at::Tensor values = to_torch(tensor, name, at::kFloat).clone().contiguous();
  float* data = values.mutable_data_ptr<float>();
  const std::int64_t cols = tensor.shape.back();
  for (std::int64_t i = 0; i < values.numel(); ++i) change(data + i, i / cols, i % cols);
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(data);
  return dense_tensor(DType::F32, tensor.shape, Blob(std::vector<std::uint8_t>(bytes, bytes + values.numel() * 4)));
}

Model tortured(const Inputs& inputs, const Weights& weights) {
  const Config config = tortured_config();
  Model model = test::small_model(config).model;
  for (const ExpectedTensor& expected : expected_tensors(config)) {
    Tensor& tensor = model.tensors.at(expected.name);
    if (expected.linear) {
      tensor = changed(tensor, expected.name, weights.change);
    } else if (expected.role == Role::Embedding) {
      tensor = changed(tensor, expected.name, [&](float* w, std::int64_t row, std::int64_t col) { if (col == 0) inputs.embedding(w, row); });
    } else if (expected.name.find("layers.") != std::string::npos) {
      tensor = changed(tensor, expected.name, [&](float* w, std::int64_t, std::int64_t col) { *w *= inputs.gain(col); });
    }
  }
  return model;
}

Calibration windows_of(const Inputs& inputs) {
  Calibration calibration;
  for (std::int64_t w = 0; w < inputs.windows; ++w) calibration.windows.push_back(test::random_ids(inputs.tokens, kVocabulary, static_cast<std::uint32_t>(100 + w)));
  calibration.description = {{"text", "none"}};
  return calibration;
}

struct Case {
  const char* name;
  const char* method;
  double bits, sparsity;
};
constexpr Case kCases[] = {{"mi", "mi", 4, 0}, {"mixed", "mixed", 3, 0}, {"mi_zeros", "mi", 4, 0.5}, {"mixed_zeros", "mixed", 3.5, 0.3}};

class PlannedTorture : public testing::TestWithParam<Case> {
 protected:
  Recipe recipe() const {
    CompressOptions options;
    options.method = GetParam().method;
    options.target_avg_bits = GetParam().bits;
    if (GetParam().sparsity > 0) options.sparsity = GetParam().sparsity;
    options.group_size = 16;
    options.compute = ComputeType::Float32;
    return resolve(options, tortured_config());
  }

  // What each linear of the result reads, which is what it was solved for: the linears before it in the layer are stored already.
  std::map<InputPlace, at::Tensor> hessians(const Model& model, const Calibration& calibration) {
    std::map<InputPlace, at::Tensor> found;
    const ForwardPass forward(model, ComputeType::Float32);
    Walk walk(forward, calibration, pool_);
    std::map<InputPlace, HessianSum> sums;
    walk.observe(forward.load_layer(0), [&](InputPlace place, std::span<const at::Tensor> inputs) { sums.try_emplace(place, inputs.front().size(1)).first->second.add(inputs, pool_); }, false);
    for (const auto& [place, sum] : sums) found.emplace(place, sum.mean());
    return found;
  }

  void expect_finite(const at::Tensor& values) {
    const float* data = values.const_data_ptr<float>();
    for (std::int64_t i = 0; i < values.numel(); ++i) ASSERT_TRUE(std::isfinite(data[i])) << "value " << i;
  }

  void judge(const Model& dense, const CompressResult& result, const Calibration& calibration) {
    const auto inputs = hessians(result.model, calibration);
    for (const LayerTensor& rule : layer_tensors(dense.config, 0)) {
      if (!rule.linear()) continue;
      ++layers_;
      const std::string name = layer_tensor_name(architecture(dense.config.architecture), 0, rule.name);
      SCOPED_TRACE(name);
      const Tensor& stored = result.model.tensors.at(name);
      ASSERT_EQ(stored.encoding, Encoding::Packed);
      const PackedMatrix packed = unpack(stored, name);
      for (const float scale : packed.scales) ASSERT_TRUE(std::isfinite(scale) && scale > 0) << scale;
      const at::Tensor values = decode_matrix(packed, pool_), weights = to_torch(dense.tensors.at(name), name, at::kFloat), &hessian = inputs.at(rule.place());
      expect_finite(values);
      RoundingOptions options;
      options.automatic_scale_dtype = packed.scale_bits == 0 && packed.scale_dtype != DType::F32;
      options.scale_bits = packed.scale_bits;
      const at::Tensor nearest = decode_matrix(round_to_nearest(weights, {packed.group_of_column, packed.bits_of_group}, packed.kept, options, pool_), pool_);
      const double whole = output_error(weights, at::zeros(weights.sizes()), hessian, pool_);
      if (std::isfinite(whole)) {
        EXPECT_LE(output_error(weights, values, hessian, pool_), 1.001 * output_error(weights, nearest, hessian, pool_) + 1e-9 * whole);
      }
    }
  }

  // Every fallback is in the count, in the statistics by the matrix' name, and in a message.
  void expect_counted(const CompressResult& result, const std::vector<std::string>& messages) {
    std::int64_t named = 0, said = 0;
    for (const Json& matrix : result.model.statistics.at("matrices")) {
      named += matrix.contains("fallback");
      ASSERT_TRUE(matrix["error"].is_number() && std::isfinite(matrix["error"].get<double>()) && matrix["error"] >= 0) << matrix;
    }
    for (const std::string& message : messages) said += message.find("rounded to nearest") != message.npos;
    EXPECT_EQ(named, result.fallbacks);
    EXPECT_EQ(said, result.fallbacks);
    EXPECT_EQ(result.model.statistics.value("fallbacks", 0), result.fallbacks);
  }

  ThreadPool pool_{1};
  int layers_ = 0;
};

TEST_P(PlannedTorture, StaysFiniteAndNoWorseThanNearest) {
  int refused = 0;
  std::int64_t fallbacks = 0;
  for (const Inputs& inputs : kInputs) {
    const Calibration calibration = windows_of(inputs);
    for (const Weights& weights : kWeights) {
      SCOPED_TRACE(std::string("inputs ") + inputs.name + ", weights " + weights.name);
      const Model dense = tortured(inputs, weights);
      std::vector<std::string> messages;
      try {
        const CompressResult result = compress(dense, calibration, recipe(), pool_, {}, [&](std::string_view line) { messages.emplace_back(line); });
        judge(dense, result, calibration);
        expect_counted(result, messages);
        fallbacks += result.fallbacks;
        if (inputs.name == std::string("all dead")) {
          EXPECT_EQ(result.fallbacks, 7);
        }
        if (inputs.name == std::string("plain") && weights.name == std::string("plain")) {
          EXPECT_EQ(result.fallbacks, 0);
        }
      } catch (const Error& error) {
        // Activations or gradients beyond float32: nothing can be measured, and nothing is written. The matrix is named.
        ++refused;
        const std::string message = error.what();
        EXPECT_TRUE(message.starts_with("model.layers.0.") && message.find(".weight: ") != message.npos) << message;
        EXPECT_NE(message.find("leave the range of float32"), std::string::npos) << message;
        // Attention's way back multiplies exp(score - log sum of exp): scores of 1e9 are rounded to multiples of 64.
        EXPECT_TRUE(inputs.large || weights.large) << message;
      }
    }
  }
  RecordProperty("layers", layers_);
  RecordProperty("fallbacks", static_cast<int>(fallbacks));
  RecordProperty("refused", refused);
  std::printf("%s: %d layers, %lld fallbacks, %d models refused\n", GetParam().name, layers_, static_cast<long long>(fallbacks), refused);
  EXPECT_GE(layers_, 550);
}

INSTANTIATE_TEST_SUITE_P(Methods, PlannedTorture, testing::ValuesIn(kCases), [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace miq
