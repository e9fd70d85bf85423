// Small random models for tests: the same weights as a Model and as the reference's matrices.
#pragma once

#include <cstring>
#include <random>

#include "miq/model/architecture.h"
#include "miq/model/model.h"
#include "tests/reference/forward_reference.h"

namespace miq::test {

struct SmallModel {
  Model model;
  reference::Forward oracle;
};

// Weights are normal with deviation `scale` / sqrt(in) (an embedding that is no head: 1), norms uniform in
// [0.5, 1.5], biases normal with deviation 0.3, stored as `dtype` (F32 or BF16); the oracle holds the stored values.
inline SmallModel small_model(const Config& config, DType dtype = DType::F32, std::uint32_t seed = 1, float scale = 1.5f) {
  SmallModel made;
  made.model.name = "small";
  made.model.config = made.oracle.config = config;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform(0.5f, 1.5f);
  for (const ExpectedTensor& expected : expected_tensors(config)) {
    const bool vector = expected.shape.size() == 1, norm = vector && !expected.bias;
    reference::Matrix matrix(vector ? 1 : expected.shape[0], expected.shape.back());
    const float deviation = expected.bias ? 0.3f : expected.role == Role::Embedding && !config.tied_head ? 1.0f : scale / std::sqrt(static_cast<float>(expected.shape.back()));
    std::vector<std::uint8_t> bytes;
    for (double& value : matrix.data) {
      float number = norm ? uniform(random) : deviation * normal(random);
      if (dtype == DType::BF16) {
        const std::uint16_t bits = f32_to_bf16(number);
        number = bf16_to_f32(bits);
        bytes.insert(bytes.end(), reinterpret_cast<const std::uint8_t*>(&bits), reinterpret_cast<const std::uint8_t*>(&bits) + 2);
      } else {
        bytes.insert(bytes.end(), reinterpret_cast<const std::uint8_t*>(&number), reinterpret_cast<const std::uint8_t*>(&number) + 4);
      }
      value = number;
    }
    made.model.tensors.emplace(expected.name, dense_tensor(dtype, expected.shape, Blob(std::move(bytes))));
    made.oracle.weights.emplace(expected.name, std::move(matrix));
  }
  return made;
}

inline std::vector<std::int32_t> random_ids(std::int64_t count, std::int64_t vocabulary, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  for (auto& id : ids) id = static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(vocabulary));
  return ids;
}

// Odd sizes, grouped heads, layers of different shapes.
inline Config odd_config() {
  Config config;
  config.architecture = "llama";
  config.vocabulary = 101;
  config.hidden = 37;
  config.max_positions = 4096;
  config.layers = {{6, 2, 10, 53}, {3, 3, 6, 29}, {4, 1, 16, 64}};
  config.norm_epsilon = 1e-5;
  return config;
}

}  // namespace miq::test
