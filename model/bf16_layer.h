// A decoder layer, forwards and backwards, and the loss on AVX512-BF16 CPUs: the same steps as decoder.h, with our own products
// and everything between them fused.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "miq/model/bf16_attention.h"
#include "miq/model/bf16_product.h"
#include "miq/model/bf16_sliced.h"
#include "miq/model/decoder.h"

namespace miq {

// A layer's linears, packed. q, k, v stand side by side in one matrix, gate and up in alternating panels.
// Keeps the tensors it was made from, to see whether a layer still has them.
class Bf16Layer {
 public:
  // Whether the kernels exist here for a layer of these sizes (they need even sizes): pre-norm layers with
  // RMS norms, rotary positions and one gated SiLU MLP; biases on q, k and v, norms of heads, windows; sliced ones.
  static bool supports(const Config& config, const LayerConfig& sizes);
  // REQUIRES supports().
  Bf16Layer(const Config& config, const LayerWeights& layer);
  // Forgets the linears' tensors it was made from: run() needs them no more, backward() is not to be called.
  void forget_linears(const Config& config, std::int64_t layer);

  // False once an entry was replaced or changed by a LibTorch operation.
  bool is_of(const LayerWeights& layer) const;
  // `inputs_only` leaves the last product out; the result then has no meaning.
  at::Tensor run(const LayerContext& context, const at::Tensor& hidden, const InputObserver& observer, bool inputs_only = false) const;

  // run() in steps, as LayerSequence (decoder.h) has them; inputs are contiguous, each step returns a tensor of its own.
  at::Tensor attention_input(const LayerContext& context, const at::Tensor& hidden) const;
  at::Tensor attention_inside(const LayerContext& context, const at::Tensor& input) const;
  at::Tensor behind_attention(const LayerContext& context, const at::Tensor& hidden, const at::Tensor& inside) const;
  at::Tensor mlp_input(const LayerContext& context, const at::Tensor& middle) const;
  at::Tensor mlp_inside(const LayerContext& context, const at::Tensor& input) const;
  at::Tensor behind_mlp(const LayerContext& context, const at::Tensor& middle, const at::Tensor& inside) const;

  // Whether backward() knows the layer: no norms of heads, no factors of late queries, not sliced.
  bool differentiable(const LayerContext& context) const {
    return !context.config.query_key_norm && !context.rope.query_factors.defined() && !context.config.sliced;
  }
  // d loss / d hidden, [tokens, hidden] float32, given `gradient` = d loss / d output; shows d loss / d (each linear's output), [tokens,
  // out] bfloat16 tensors that the observer may keep. The first call packs the transposed matrices. REQUIRES differentiable().
  at::Tensor backward(const LayerContext& context, const at::Tensor& hidden, const at::Tensor& gradient,
                      const ForwardPass::GradientObserver& observer) const;

 private:
  struct Backward;  // one window's way back
  // Of the linears: inner indices are outputs. Gate stands in front of up.
  struct Transposed {
    PackedBf16 qkv, o, gate_up, down;
  };
  const Transposed& transposed(const LayerConfig& sizes) const;
  // Rows of `n` floats.
  void normalise(const LayerContext& context, Role norm, const float* x, std::int64_t tokens, std::int64_t n, Bf16* to) const;
  // to = the stream on its way around a block + input * weight; `to` may be `stream` where the layer is not sliced.
  void add_block(const Rotation& rotation, const at::Tensor& input, const PackedBf16& weight, const float* stream, float* to) const;
  // Rows of q, k and v, qkv_.padded_columns() floats a token, biases added.
  void project(const Bf16* x, std::int64_t tokens, std::int64_t width, float* projected) const;
  const at::Tensor& source(Role role, bool bias = false) const { return sources_.find(rule_name(*rules_, role, bias))->second.first; }
  bool has(Role role, bool bias = false) const { return sources_.contains(rule_name(*rules_, role, bias)); }
  // Attention of each window, or of each sequence where rows are shared, from rows as project() leaves them.
  void attend(const LayerContext& context, const float* projected, std::int64_t tokens, Bf16* mixed) const;
  // q, k, v of x [tokens, hidden], ready for attend(); then attend().
  void attend_inputs(const LayerContext& context, const at::Tensor& x, const at::Tensor& mixed) const;
  // gated [tokens, width] = silu(gate x) * up x.
  void gate(const at::Tensor& x, const at::Tensor& gated) const;
  void pack_attention(const LayerConfig& sizes);
  void pack_mlp();
  // Norms of heads and the scaling of late queries, in place; rows of qkv_.padded_columns() floats.
  void prepare_heads(const LayerContext& context, std::int64_t tokens, float* projected) const;

  const Architecture* rules_;
  std::map<std::string, std::pair<at::Tensor, std::int64_t>, std::less<>> sources_;  // tensor, version
  PackedBf16 qkv_, o_, gate_up_, down_;
  Rotation attention_rotation_, mlp_rotation_;  // sliced layers only
  std::int64_t key_column_ = 0, value_column_ = 0;  // in qkv_
  std::vector<float> bias_;                         // of qkv_'s columns; empty: none
  mutable std::once_flag transposing_;
  mutable Transposed transposed_;
};

// to[t] = residual[t] + (input * weight)[t], rows of n floats; `to` may be `residual`.
void add_product(const Bf16* input, std::int64_t lda, std::int64_t tokens, const PackedBf16& weight, std::int64_t n, const float* residual, float* to);

// The head [vocabulary, hidden], packed.
PackedBf16 pack_head(const at::Tensor& head);
// Losses of positions first … first + targets.size() - 1 of hidden [tokens, hidden] float32.
std::vector<float> bf16_losses(const PackedBf16& head, const at::Tensor& final_norm, double epsilon, const at::Tensor& hidden,
                               std::int64_t first, std::span<const std::int32_t> targets);
// to[t] = head x[t]: x [rows, hidden] bfloat16, to [rows, vocabulary] float32, both contiguous.
void bf16_logits(const PackedBf16& head, const at::Tensor& x, at::Tensor& to);

}  // namespace miq
