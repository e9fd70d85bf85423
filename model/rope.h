// Rotary position embedding (Su et al. 2021, arXiv:2104.09864) in the half-rotation form of transformers:
// element i of a head pairs with element i + head_dim/2.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <mutex>
#include <vector>

#include "miq/model/config.h"

namespace miq {

// Inverse frequencies, [head_dim / 2]: theta^(-2i / head_dim) after the config's scaling. Rounded to
// float32, as the original has them: angles are float32(inverse frequency) * float32(position).
std::vector<float> rope_inverse_frequencies(std::int64_t head_dim, double theta, const RopeScaling& scaling);

// Cosines and sines of the angles of positions 0 … tokens-1, both [tokens, head_dim / 2] float32.
struct RopeTable {
  at::Tensor cosines, sines;
};

// Keeps the longest table asked for so far, per head size. Thread-safe.
class RopeTables {
 public:
  RopeTables(double theta, const RopeScaling& scaling) : theta_(theta), scaling_(scaling) {}
  // Views of the kept table; a table handed out stays valid.
  RopeTable table(std::int64_t head_dim, std::int64_t tokens);

 private:
  double theta_;
  RopeScaling scaling_;
  std::mutex mutex_;
  std::map<std::int64_t, RopeTable> tables_;
};

}  // namespace miq
