// Random layers for the solver's tests: correlated inputs, their Hessian and weights.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <random>

#include "miq/compress/hessian.h"

namespace miq {

inline at::Tensor random_matrix(std::int64_t rows, std::int64_t cols, unsigned seed, float scale = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  at::Tensor matrix = at::empty({rows, cols}, at::kFloat);
  float* data = matrix.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < rows * cols; ++i) data[i] = scale * normal(engine);
  return matrix;
}

// Inputs of a few strong common factors plus noise, channels of very different size.
inline at::Tensor random_inputs(std::int64_t tokens, std::int64_t channels, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  const int factors = 4;
  std::vector<float> loadings(factors * channels), sizes(channels);
  for (float& loading : loadings) loading = normal(engine);
  for (float& size : sizes) size = std::exp(normal(engine));
  at::Tensor inputs = at::empty({tokens, channels}, at::kFloat);
  float* data = inputs.mutable_data_ptr<float>();
  for (std::int64_t t = 0; t < tokens; ++t) {
    float common[factors];
    for (float& value : common) value = normal(engine);
    for (std::int64_t j = 0; j < channels; ++j) {
      float sum = normal(engine);
      for (int f = 0; f < factors; ++f) sum += common[f] * loadings[f * channels + j];
      data[t * channels + j] = sizes[j] * sum;
    }
  }
  return inputs;
}

inline at::Tensor hessian_of(const at::Tensor& inputs, ThreadPool& pool) {
  HessianSum sum(inputs.size(1));
  const at::Tensor one[] = {inputs};
  sum.add(one, pool);
  return sum.mean();
}

}  // namespace miq
