// Buffers between the steps are whole windows, kept per thread from one call to the next; an observed
// input is handed out and left alone if the observer kept it. The loss keeps one running log-sum-exp a
// position and takes in each tile of logits while it is in the first-level cache: no block of logits
// is ever stored.
#include "miq/model/bf16_layer.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "miq/base/error.h"
#include "miq/model/bf16_attention.h"
#include "miq/model/bf16_elementwise.h"

namespace miq {
namespace {

std::int64_t round_up(std::int64_t value, std::int64_t to) { return (value + to - 1) / to * to; }

Bf16* bits(const at::Tensor& tensor) { return reinterpret_cast<Bf16*>(tensor.data_ptr<at::BFloat16>()); }

at::Tensor as_bf16(const at::Tensor& weight) { return weight.detach().to(at::kBFloat16).contiguous(); }

// Columns of `to` from `first` on: the rows of `weight` [out, in].
void pack_rows(const at::Tensor& weight, std::int64_t first, PackedBf16& to) {
  const at::Tensor rows = as_bf16(weight);
  to.set_columns(first, bits(rows), rows.size(1), rows.size(0));
}

PackedBf16 pack(const at::Tensor& weight) {
  PackedBf16 packed(weight.size(1), weight.size(0));
  pack_rows(weight, 0, packed);
  return packed;
}

// A tensor of this shape for the calling thread to write to: the last one of the slot where nobody kept it.
at::Tensor scratch(int slot, std::int64_t rows, std::int64_t columns, at::ScalarType type) {
  thread_local at::Tensor slots[5];
  at::Tensor& kept = slots[slot];
  const std::int64_t wanted = rows * columns;
  if (!kept.defined() || kept.storage().use_count() > 1 || kept.scalar_type() != type || kept.numel() < wanted ||
      kept.numel() > 4 * wanted) {
    kept = at::Tensor();
    kept = at::empty({wanted}, type);
  }
  return kept.narrow(0, 0, wanted).view({rows, columns});
}

std::int64_t version(const at::Tensor& tensor) { return tensor.is_inference() ? 0 : static_cast<std::int64_t>(tensor._version()); }

}  // namespace

bool Bf16Layer::supports(const Config& config, const LayerConfig& sizes) {
  const bool plain = config.norm == NormKind::Rms && config.norm_first && config.activation == Activation::Silu && config.gated_mlp &&
                     !config.query_bias && !config.output_bias && !config.mlp_bias && !config.query_key_norm && !config.sliced && config.log_scaled_from == 0 &&
                     config.positions == Positions::Rotary && sizes.experts == 0 && sizes.window == 0 && !sizes.identity &&
                     rule_name(architecture(config.architecture), Role::QueryKeyValue).empty();
  return have_bf16_kernels() && plain && config.hidden % 2 == 0 && sizes.head_dim % 2 == 0 && sizes.mlp_width % 2 == 0;
}

Bf16Layer::Bf16Layer(const LayerWeights& layer) {
  for (const auto& [name, tensor] : layer.tensors) sources_.emplace(name, std::pair(tensor, version(tensor)));
  const at::Tensor &q = source("self_attn.q_proj.weight"), &k = source("self_attn.k_proj.weight"), &v = source("self_attn.v_proj.weight");
  key_column_ = round_up(q.size(0), kPanel);
  value_column_ = key_column_ + round_up(k.size(0), kPanel);
  qkv_ = PackedBf16(q.size(1), value_column_ + v.size(0));
  pack_rows(q, 0, qkv_);
  pack_rows(k, key_column_, qkv_);
  pack_rows(v, value_column_, qkv_);
  o_ = pack(source("self_attn.o_proj.weight"));
  down_ = pack(source("mlp.down_proj.weight"));

  const at::Tensor gate = as_bf16(source("mlp.gate_proj.weight")), up = as_bf16(source("mlp.up_proj.weight"));
  const std::int64_t width = gate.size(0), inner = gate.size(1);
  gate_up_ = PackedBf16(inner, 2 * round_up(width, kPanel));
  for (std::int64_t row = 0; row < width; row += kPanel) {
    const std::int64_t count = std::min(kPanel, width - row);
    gate_up_.set_columns(2 * row, bits(gate) + row * inner, inner, count);
    gate_up_.set_columns(2 * row + kPanel, bits(up) + row * inner, inner, count);
  }
}

bool Bf16Layer::is_of(const LayerWeights& layer) const {
  for (const auto& [name, kept] : sources_) {
    const auto found = layer.tensors.find(name);
    if (found == layer.tensors.end() || !found->second.is_same(kept.first) || version(found->second) != kept.second) return false;
  }
  return true;
}

at::Tensor Bf16Layer::run(const LayerContext& context, const at::Tensor& hidden, const InputObserver& observer, bool inputs_only) const {
  const LayerConfig& sizes = context.sizes;
  const std::int64_t tokens = hidden.size(0), n = context.config.hidden, width = sizes.mlp_width;
  const double epsilon = context.config.norm_epsilon;
  const float* from = hidden.const_data_ptr<float>();
  const auto normalise = [&](const float* x, std::string_view norm, const at::Tensor& to) {
    const float* weight = source(norm).const_data_ptr<float>();
    for (std::int64_t t = 0; t < tokens; ++t) rms_norm_bf16(x + t * n, weight, epsilon, n, bits(to) + t * n);
  };
  const auto observe = [&](InputSite site, const at::Tensor& input) {
    if (observer) observer(site, input);
  };
  // output = residual + input * weight
  const auto add_product = [&](const at::Tensor& input, const PackedBf16& weight, const float* residual, float* output) {
    product(bits(input), input.size(1), tokens, weight, [&](std::int64_t row, std::int64_t rows, std::int64_t column, const float* tile) {
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t at = (row + r) * n + column;
        add_float(residual + at, tile + r * kTileColumns, std::min(kTileColumns, n - column), output + at);
      }
    });
  };
  at::Tensor output = at::empty({tokens, n}, at::kFloat);
  float* out = output.data_ptr<float>();

  at::Tensor x = scratch(0, tokens, n, at::kBFloat16);
  normalise(from, "input_layernorm.weight", x);
  observe(InputSite::Attention, x);
  const std::int64_t stride = qkv_.padded_columns();
  const at::Tensor qkv = scratch(1, tokens, stride, at::kFloat);
  float* projected = qkv.data_ptr<float>();
  product(bits(x), n, tokens, qkv_, [&](std::int64_t row, std::int64_t rows, std::int64_t column, const float* tile) {
    for (std::int64_t r = 0; r < rows; ++r) std::copy_n(tile + r * kTileColumns, kTileColumns, projected + (row + r) * stride + column);
  });
  const at::Tensor mixed = scratch(2, tokens, sizes.heads * sizes.head_dim, at::kBFloat16);
  causal_attention_bf16({tokens, sizes.heads, sizes.kv_heads, sizes.head_dim}, projected, projected + key_column_, projected + value_column_,
                        stride, context.rope.cosines.const_data_ptr<float>(), context.rope.sines.const_data_ptr<float>(), bits(mixed));
  observe(InputSite::AttentionOutput, mixed);
  add_product(mixed, o_, from, out);

  at::Tensor y = scratch(3, tokens, n, at::kBFloat16);
  normalise(out, "post_attention_layernorm.weight", y);
  observe(InputSite::Mlp, y);
  const at::Tensor gated = scratch(4, tokens, width, at::kBFloat16);
  product(bits(y), n, tokens, gate_up_, [&](std::int64_t row, std::int64_t rows, std::int64_t column, const float* tile) {
    const std::int64_t first = column / 2, count = std::min(kPanel, width - first);
    for (std::int64_t r = 0; r < rows; ++r) {
      silu_times_bf16(tile + r * kTileColumns, tile + r * kTileColumns + kPanel, count, bits(gated) + (row + r) * width + first);
    }
  });
  observe(InputSite::MlpOutput, gated);
  if (!inputs_only) add_product(gated, down_, out, out);
  return output;
}

PackedBf16 pack_head(const at::Tensor& head) { return pack(head); }

std::vector<float> bf16_losses(const PackedBf16& head, const at::Tensor& final_norm, double epsilon, const at::Tensor& hidden,
                               std::int64_t first, std::span<const std::int32_t> targets) {
  const auto count = static_cast<std::int64_t>(targets.size());
  const std::int64_t n = hidden.size(1), vocabulary = head.columns();
  for (const std::int32_t target : targets) {
    if (target < 0 || target >= vocabulary) throw Error("token id " + std::to_string(target) + " lies outside the vocabulary");
  }
  const at::Tensor x = scratch(0, count, n, at::kBFloat16);
  const float* from = hidden.const_data_ptr<float>() + first * n;
  for (std::int64_t t = 0; t < count; ++t) rms_norm_bf16(from + t * n, final_norm.const_data_ptr<float>(), epsilon, n, bits(x) + t * n);

  std::vector<LogSum> sums(targets.size(), LogSum{-std::numeric_limits<float>::infinity(), 0});
  std::vector<float> chosen(targets.size());
  product(bits(x), n, count, head, [&](std::int64_t row, std::int64_t rows, std::int64_t column, const float* tile) {
    for (std::int64_t r = 0; r < rows; ++r, tile += kTileColumns) {
      const auto position = static_cast<std::size_t>(row + r);
      add_to_log_sum(sums[position], tile, std::min(kTileColumns, vocabulary - column));
      const std::int64_t target = targets[position] - column;
      if (target >= 0 && target < kTileColumns) chosen[position] = tile[target];
    }
  });
  std::vector<float> losses(targets.size());
  for (std::size_t i = 0; i < losses.size(); ++i) {
    losses[i] = static_cast<float>(sums[i].largest + std::log(static_cast<double>(sums[i].sum)) - chosen[i]);
  }
  return losses;
}

}  // namespace miq
