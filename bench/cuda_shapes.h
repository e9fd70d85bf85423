// What the programs that measure a GPU have in common: models with the shape of a known one and random weights, texts for them, and how a figure is printed.
#pragma once

#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "miq/evaluate/protocol.h"
#include "miq/formats/dtype.h"
#include "miq/model/architecture.h"
#include "miq/model/model.h"

namespace miq {

inline double seconds_now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

inline void say(const char* name, double value, const char* unit) {
  std::printf("%-44s %12.4g %s\n", name, value, unit);
  std::fflush(stdout);
}

// Normal-looking numbers, fast: sums of four bytes of a counter's hash.
inline Tensor random_tensor(const Shape& shape, float deviation, float mean, std::uint64_t seed) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(count) * 2);
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint64_t x = (static_cast<std::uint64_t>(i) + 1) * 0x9E3779B97F4A7C15u + seed;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x ^= x >> 27;
    const auto sum = static_cast<float>((x & 0xFFFF) + ((x >> 16) & 0xFFFF) + ((x >> 32) & 0xFFFF) + (x >> 48));
    const std::uint16_t bits = f32_to_bf16(mean + deviation * (sum - 131070.0f) / 37837.0f);
    std::memcpy(bytes.data() + i * 2, &bits, 2);
  }
  return dense_tensor(DType::BF16, shape, Blob(std::move(bytes)));
}

struct BenchShape {
  const char* name;
  std::int64_t vocabulary, hidden, heads, head_dim, mlp_width;
};
inline constexpr BenchShape kLlama7b{"Llama-2-7B's shape", 32000, 4096, 32, 128, 11008}, kSmallShape{"a small shape", 256, 128, 4, 32, 256};

// All layers are one layer's bytes.
inline Model llama_shaped(const BenchShape& shape, std::int64_t layers) {
  Model model;
  model.name = shape.name;
  Config& config = model.config;
  config.architecture = "llama";
  config.vocabulary = shape.vocabulary;
  config.hidden = shape.hidden;
  config.max_positions = 4096;
  for (std::int64_t i = 0; i < layers; ++i) config.layers.push_back({shape.heads, shape.heads, shape.head_dim, shape.mlp_width});
  std::map<std::string, Tensor> made;  // one layer's, for all
  for (const ExpectedTensor& expected : expected_tensors(config)) {
    const std::string prefix = "model.layers.";
    std::string key = expected.name;
    if (key.starts_with(prefix)) key = key.substr(key.find('.', prefix.size()));
    if (!made.contains(key)) {
      const bool norm = expected.shape.size() == 1;
      made.emplace(key, norm ? random_tensor(expected.shape, 0.02f, 1, made.size()) : random_tensor(expected.shape, 0.02f, 0, made.size()));
    }
    model.tensors.emplace(expected.name, made.at(key));
  }
  return model;
}

inline WindowPlan plan_of(std::int64_t windows, std::int64_t seqlen, std::int64_t vocabulary) {
  WindowPlan plan;
  plan.seqlen = seqlen;
  plan.text_tokens = windows * seqlen;
  std::mt19937 random(5);
  for (std::int64_t i = 0; i < plan.text_tokens; ++i) plan.tokens.push_back(static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(vocabulary)));
  for (std::int64_t w = 0; w < windows; ++w) plan.windows.push_back({static_cast<std::size_t>(w * seqlen), static_cast<std::size_t>(seqlen), 0});
  return plan;
}

}  // namespace miq
