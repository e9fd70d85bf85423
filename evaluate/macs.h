// Multiplications that one token costs, from the architecture's table alone: what the forward pass multiplies, whatever the weights
// hold (a zero counts) and however they are stored.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "miq/model/architecture.h"

namespace miq {

struct MacCount {
  // Of matrices, in the order of Part: [out, in] takes out * in. Of a mixture's experts, those that a token is sent to; a tied
  // embedding counts as the head that it is. Looking up an embedding, norms, biases and activations count nothing.
  std::vector<std::pair<Part, std::int64_t>> by_part;
  std::int64_t products = 0;     // their sum, for each token
  std::int64_t length = 0;       // of the text that attention is counted for
  double attention = 0;          // a token's scores and weighted values, heads * head_dim * 2 for each token it sees, mean over the text
  double per_token() const { return static_cast<double>(products) + attention; }
  std::int64_t rotations() const;  // of products: those that carry a sliced model's stream around its blocks
};

MacCount count_macs(const Config& config, std::int64_t length);

}  // namespace miq
