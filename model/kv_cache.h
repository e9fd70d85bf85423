// Keys and values of the tokens of one sequence, kept from one step of generation to the next, and attention over them.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "miq/model/forward.h"

namespace miq {

class KvCache {
 public:
  // Room for `capacity` tokens, [kv_heads, capacity, head_dim] of keys and as many values in each layer that is not deleted;
  // memory is taken as tokens come. Throws Error when the sizes overflow.
  KvCache(const Config& config, ComputeType type, std::int64_t capacity, at::Device device = at::kCPU);

  std::int64_t capacity() const { return capacity_; }
  std::uint64_t bytes() const;  // of the whole capacity

  // Keys and values [kv_heads, head_dim] of one token; any floating type. Layers are filled one after another, so each counts for itself.
  void store(std::size_t layer, std::int64_t position, const at::Tensor& keys, const at::Tensor& values);
  // The same from float32 numbers, rounded to the cache's type.
  void store(std::size_t layer, std::int64_t position, const float* keys, const float* values);
  // Of tokens first … first + n - 1, [kv_heads, n, head_dim].
  void store_all(std::size_t layer, std::int64_t first, const at::Tensor& keys, const at::Tensor& values);

  // softmax(q k^T / sqrt(head_dim)) v of one token over those from the later of 0 and position - window + 1 (window 0: from 0) to its own
  // position, for the query heads that share key/value head `kv_head`: `queries` and `to` are [heads / kv_heads, head_dim] float32.
  // Depends on nothing but the sequence. Any thread.
  void attend(std::size_t layer, const LayerConfig& sizes, std::int64_t position, std::int64_t kv_head, const float* queries, float* to) const;
  // Tokens first … first + n - 1 at once, by LibTorch: queries [heads / kv_heads, n, head_dim] -> the same shape.
  at::Tensor attend_all(std::size_t layer, const LayerConfig& sizes, std::int64_t first, std::int64_t kv_head, const at::Tensor& queries) const;

  // The same for all heads, wherever the cache lies: queries [heads, n, head_dim] -> the same shape.
  at::Tensor attend_heads(std::size_t layer, const LayerConfig& sizes, std::int64_t first, const at::Tensor& queries) const;

 private:
  struct Layer {
    at::Tensor keys, values;
  };
  std::int64_t capacity_;
  std::vector<Layer> layers_;
};

}  // namespace miq
