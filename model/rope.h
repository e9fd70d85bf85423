// Rotary position embedding (Su et al. 2021, arXiv:2104.09864) in the half-rotation form of transformers:
// element i of a head pairs with element i + head_dim/2.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <mutex>
#include <vector>

#include "miq/model/config.h"

namespace miq {

// Inverse frequencies, [head_dim / 2]: theta^(-2i / head_dim) after the config's scaling, for a text of
// `tokens` (0: not longer than the model was trained with). Rounded to float32, as the original has them:
// angles are float32(inverse frequency) * float32(position).
std::vector<float> rope_inverse_frequencies(std::int64_t head_dim, double theta, const RopeScaling& scaling, std::int64_t tokens = 0);

// The base for a text of `tokens`: `theta`, or more for one beyond the original length under a dynamic kind. Every token of
// the text is rotated by it, so a longer text turns its first tokens otherwise.
double rope_base(std::int64_t head_dim, double theta, const RopeScaling& scaling, std::int64_t tokens);

// Cosines and sines of the angles of positions 0 … tokens-1, both [tokens, head_dim / 2] float32.
struct RopeTable {
  at::Tensor cosines, sines;
  at::Tensor query_factors;  // [tokens, 1] float32, Config::log_scaled_from; undefined where none is different from 1
};

// Keeps the longest table asked for so far, per head size and base. Thread-safe.
class RopeTables {
 public:
  // Tables lie on `device`.
  explicit RopeTables(const Config& config, at::Device device = at::kCPU)
      : theta_(config.rope_theta), scaling_(config.rope_scaling), log_scaled_from_(config.log_scaled_from), device_(device) {}
  // Views of the kept table; a table handed out stays valid.
  RopeTable table(std::int64_t head_dim, std::int64_t tokens);

 private:
  double theta_;
  RopeScaling scaling_;
  std::int64_t log_scaled_from_;
  at::Device device_;
  std::mutex mutex_;
  std::map<std::pair<std::int64_t, double>, RopeTable> tables_;  // by head size and the base for the text's length
};

}  // namespace miq
