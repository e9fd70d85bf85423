// Causal attention with grouped key/value heads, bfloat16 products and float32 softmax, on AVX512-BF16
// CPUs (have_bf16_kernels() is REQUIRED).
#pragma once

#include <cstdint>

#include "miq/model/bf16_product.h"

namespace miq {

struct AttentionSizes {
  std::int64_t tokens, heads, kv_heads, head_dim;  // heads a multiple of kv_heads, head_dim even
  std::int64_t window = 0;                         // a token sees itself and the window - 1 before it; 0: all before it
};

// Rows of `stride` floats, one a token: `q`, `k`, `v` point at the first token's [heads * head_dim] and
// [kv_heads * head_dim] values, not yet rotated. Cosines and sines are [tokens, head_dim / 2]. Writes
// `to` [tokens, heads * head_dim]: softmax(q k^T / sqrt(head_dim)) v over the tokens up to each one's own.
void causal_attention_bf16(const AttentionSizes& sizes, const float* q, const float* k, const float* v, std::int64_t stride,
                           const float* cosines, const float* sines, Bf16* to);

// Backwards: `gradient` is d loss / d `to`. Writes the gradients of q, k and v (not rotated), rows of heads * head_dim and twice
// kv_heads * head_dim values side by side, q first. Scores are computed anew, twice: no matrix of tokens x tokens exists.
void causal_attention_backward_bf16(const AttentionSizes& sizes, const float* q, const float* k, const float* v, std::int64_t stride,
                                    const float* cosines, const float* sines, const Bf16* gradient, Bf16* to);

}  // namespace miq
