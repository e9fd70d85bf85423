// One token's attention is two products with few rows (row_product.h) around a float32 softmax: queries of the heads that share
// a key head times its keys, probabilities times its values. Many tokens at once go through LibTorch's scaled dot product.
#include "miq/model/kv_cache.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <algorithm>
#include <cmath>

#include "miq/base/checked.h"
#include "miq/base/error.h"
#include "miq/model/decoder.h"
#include "miq/model/row_product.h"

namespace miq {
namespace {

template <class Value>
const Value* values_of(const at::Tensor& tensor) {
  return static_cast<const Value*>(tensor.const_data_ptr());
}

// q [rows, d] over `count` keys and values from `first` on.
template <class Value>
void attend_rows(const at::Tensor& keys, const at::Tensor& values, std::int64_t kv_head, std::int64_t first, std::int64_t count,
                 std::int64_t rows, const float* queries, float* to) {
  const std::int64_t d = keys.size(2), start = (kv_head * keys.size(1) + first) * d;
  thread_local std::vector<float> scores;
  scores.resize(static_cast<std::size_t>(rows * count));
  row_products(queries, d, rows, values_of<Value>(keys) + start, d, count, scores.data(), count);
  const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(d)));
  for (std::int64_t row = 0; row < rows; ++row) {
    float* p = scores.data() + row * count;
    const float largest = *std::max_element(p, p + count);
    float sum = 0;
    for (std::int64_t t = 0; t < count; ++t) sum += p[t] = std::exp(scale * (p[t] - largest));
    weighted_rows(p, values_of<Value>(values) + start, count, d, to + row * d);
    for (std::int64_t j = 0; j < d; ++j) to[row * d + j] /= sum;
  }
}

}  // namespace

KvCache::KvCache(const Config& config, ComputeType type, std::int64_t capacity, at::Device device) : capacity_(capacity) {
  if (capacity < 1) throw Error("a sequence needs room for a token");
  for (const LayerConfig& sizes : config.layers) {
    if (sizes.identity) {
      layers_.emplace_back();
      continue;
    }
    const std::vector<std::int64_t> shape{sizes.kv_heads, capacity, sizes.head_dim};
    const auto elements = checked_elements(shape);
    if (!elements || !checked_mul(*elements, std::uint64_t{16})) {
      throw Error("keys and values of " + std::to_string(capacity) + " tokens are more than can be addressed; ask for fewer tokens");
    }
    const auto options = at::TensorOptions(scalar_type(type)).device(device);
    layers_.push_back({at::empty(shape, options), at::empty(shape, options)});
  }
}

std::uint64_t KvCache::bytes() const {
  std::uint64_t bytes = 0;
  for (const Layer& layer : layers_) {
    if (layer.keys.defined()) bytes += 2 * static_cast<std::uint64_t>(layer.keys.nbytes());
  }
  return bytes;
}

void KvCache::store(std::size_t layer, std::int64_t position, const at::Tensor& keys, const at::Tensor& values) {
  layers_.at(layer).keys.select(1, position).copy_(keys);
  layers_.at(layer).values.select(1, position).copy_(values);
}

void KvCache::store(std::size_t layer, std::int64_t position, const float* keys, const float* values) {
  const auto put = [&](at::Tensor& kept, const float* from) {
    const std::int64_t heads = kept.size(0), room = kept.size(1), d = kept.size(2);
    for (std::int64_t head = 0; head < heads; ++head, from += d) {
      const std::int64_t at = (head * room + position) * d;
      if (kept.scalar_type() == at::kFloat) {
        std::copy_n(from, d, kept.data_ptr<float>() + at);
      } else {
        auto* to = kept.data_ptr<at::BFloat16>() + at;
        for (std::int64_t i = 0; i < d; ++i) to[i] = from[i];
      }
    }
  };
  put(layers_.at(layer).keys, keys);
  put(layers_.at(layer).values, values);
}

void KvCache::store_all(std::size_t layer, std::int64_t first, const at::Tensor& keys, const at::Tensor& values) {
  layers_.at(layer).keys.narrow(1, first, keys.size(1)).copy_(keys);
  layers_.at(layer).values.narrow(1, first, values.size(1)).copy_(values);
}

void KvCache::attend(std::size_t layer, const LayerConfig& sizes, std::int64_t position, std::int64_t kv_head, const float* queries, float* to) const {
  const Layer& kept = layers_.at(layer);
  const std::int64_t first = sizes.window > 0 ? std::max<std::int64_t>(0, position - sizes.window + 1) : 0;
  const std::int64_t count = position - first + 1, rows = sizes.heads / sizes.kv_heads;
  (kept.keys.scalar_type() == at::kFloat ? attend_rows<float> : attend_rows<Bf16>)(kept.keys, kept.values, kv_head, first, count, rows, queries, to);
}

at::Tensor KvCache::attend_all(std::size_t layer, const LayerConfig& sizes, std::int64_t first, std::int64_t kv_head, const at::Tensor& queries) const {
  const Layer& kept = layers_.at(layer);
  const std::int64_t tokens = queries.size(1), rows = queries.size(0);
  const std::int64_t begin = sizes.window > 0 ? std::max<std::int64_t>(0, first - sizes.window + 1) : 0, count = first + tokens - begin;
  const auto part = [&](const at::Tensor& all) {
    return all.narrow(0, kv_head, 1).narrow(1, begin, count).expand({rows, count, sizes.head_dim}).unsqueeze(0);
  };
  std::optional<at::Tensor> mask;
  const bool plain = begin == 0 && first == 0 && (sizes.window == 0 || sizes.window >= tokens);
  if (!plain) {
    const at::Tensor distance = at::arange(first, first + tokens, at::kLong).unsqueeze(1) - at::arange(begin, begin + count, at::kLong).unsqueeze(0);
    mask = distance >= 0;
    if (sizes.window > 0) mask = mask->logical_and(distance < sizes.window);
  }
  return at::scaled_dot_product_attention(queries.unsqueeze(0), part(kept.keys), part(kept.values), mask, 0.0, plain).squeeze(0);
}

at::Tensor KvCache::attend_heads(std::size_t layer, const LayerConfig& sizes, std::int64_t first, const at::Tensor& queries) const {
  const Layer& kept = layers_.at(layer);
  const std::int64_t tokens = queries.size(1);
  const std::int64_t begin = sizes.window > 0 ? std::max<std::int64_t>(0, first - sizes.window + 1) : 0, count = first + tokens - begin;
  // One token sees all that is looked at; a text from its beginning is plainly causal.
  const bool causal = tokens > 1 && first == 0 && (sizes.window == 0 || sizes.window >= tokens);
  std::optional<at::Tensor> mask;
  if (tokens > 1 && !causal) {
    const auto options = at::TensorOptions(at::kLong).device(queries.device());
    const at::Tensor distance = at::arange(first, first + tokens, options).unsqueeze(1) - at::arange(begin, begin + count, options).unsqueeze(0);
    mask = distance >= 0;
    if (sizes.window > 0) mask = mask->logical_and(distance < sizes.window);
  }
  const std::int64_t shared = sizes.heads / sizes.kv_heads;
  // As in decoder.cc: LibTorch's flash kernels share keys and values among heads by themselves.
  const bool by_itself = shared > 1 && !mask && queries.scalar_type() == at::kBFloat16 && sizes.head_dim <= 256;
  const auto part = [&](const at::Tensor& all) {
    const at::Tensor seen = all.narrow(1, begin, count);
    if (by_itself || shared == 1) return seen.unsqueeze(0);
    return seen.unsqueeze(1).expand({sizes.kv_heads, shared, count, sizes.head_dim}).reshape({1, sizes.heads, count, sizes.head_dim});
  };
  return at::scaled_dot_product_attention(queries.unsqueeze(0), part(kept.keys), part(kept.values), mask, 0.0, causal, std::nullopt, by_itself).squeeze(0);
}

}  // namespace miq
