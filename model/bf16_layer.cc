// Buffers between the steps are whole windows, kept per thread from one call to the next; an observed
// input is handed out and left alone if the observer kept it. The loss keeps one running log-sum-exp a
// position and takes in each tile of logits while it is in the first-level cache: no block of logits
// is ever stored.
#include "miq/model/bf16_layer.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <tuple>

#include "miq/base/error.h"
#include "miq/model/bf16_attention.h"
#include "miq/model/bf16_elementwise.h"
#include "miq/model/shared_prefix.h"

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
  thread_local at::Tensor slots[6];
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
  const bool norms = config.sliced ? config.norm == NormKind::FusedRms && sliced_widths_fit(config, sizes) : config.norm == NormKind::Rms;
  const bool plain = norms && config.norm_first && config.activation == Activation::Silu && config.gated_mlp &&
                     !config.output_bias && !config.mlp_bias && config.positions == Positions::Rotary && sizes.experts == 0 &&
                     !sizes.identity;
  return have_bf16_kernels() && plain && config.hidden % 2 == 0 && sizes.head_dim % 2 == 0 && sizes.mlp_width % 2 == 0;
}

Bf16Layer::Bf16Layer(const Config& config, const LayerWeights& layer) : rules_(&architecture(config.architecture)) {
  for (const auto& [name, tensor] : layer.tensors) sources_.emplace(name, std::pair(tensor, version(tensor)));
  pack_attention(config.layers.at(static_cast<std::size_t>(layer.index)));
  o_ = pack(source(Role::AttentionOutput));
  down_ = pack(source(Role::Down));
  pack_mlp();
  if (!config.sliced) return;
  attention_rotation_ = Rotation(source(Role::AttentionRotation));
  mlp_rotation_ = Rotation(source(Role::MlpRotation));
}

void Bf16Layer::forget_linears(const Config& config, std::int64_t layer) {
  for (const LayerTensor& tensor : layer_tensors(config, layer)) {
    if (tensor.linear()) sources_.erase(tensor.name);
  }
}

void Bf16Layer::pack_attention(const LayerConfig& sizes) {
  const bool fused = has(Role::QueryKeyValue);
  const std::int64_t query = sizes.heads * sizes.head_dim, key = sizes.kv_heads * sizes.head_dim;
  const auto part = [&](Role role, bool bias, std::int64_t first, std::int64_t count) {
    return fused ? source(Role::QueryKeyValue, bias).narrow(0, first, count) : source(role, bias);
  };
  const std::array<std::tuple<Role, std::int64_t, std::int64_t>, 3> parts{
      {{Role::Query, 0, query}, {Role::Key, query, key}, {Role::Value, query + key, key}}};
  key_column_ = round_up(query, kPanel);
  value_column_ = key_column_ + round_up(key, kPanel);
  const std::array<std::int64_t, 3> columns{0, key_column_, value_column_};
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto& [role, first, count] = parts[i];
    const at::Tensor weight = part(role, false, first, count);
    if (i == 0) qkv_ = PackedBf16(weight.size(1), value_column_ + key);
    pack_rows(weight, columns[i], qkv_);
    if (!has(fused ? Role::QueryKeyValue : role, true)) continue;
    bias_.resize(static_cast<std::size_t>(qkv_.padded_columns()));
    const at::Tensor bias = part(role, true, first, count).contiguous();
    std::copy_n(bias.const_data_ptr<float>(), count, bias_.data() + columns[i]);
  }
}

void Bf16Layer::pack_mlp() {
  const at::Tensor gate = as_bf16(source(Role::Gate)), up = as_bf16(source(Role::Up));
  const std::int64_t width = gate.size(0), inner = gate.size(1);
  gate_up_ = PackedBf16(inner, 2 * round_up(width, kPanel));
  for (std::int64_t row = 0; row < width; row += kPanel) {
    const std::int64_t count = std::min(kPanel, width - row);
    gate_up_.set_columns(2 * row, bits(gate) + row * inner, inner, count);
    gate_up_.set_columns(2 * row + kPanel, bits(up) + row * inner, inner, count);
  }
}

void Bf16Layer::prepare_heads(const LayerContext& context, std::int64_t tokens, float* projected) const {
  const LayerConfig& sizes = context.sizes;
  const std::int64_t stride = qkv_.padded_columns(), d = sizes.head_dim;
  const auto norm_heads = [&](Role norm, std::int64_t column, std::int64_t heads) {
    const float* weight = source(norm).const_data_ptr<float>();
    for (std::int64_t t = 0; t < tokens; ++t) {
      float* row = projected + t * stride + column;
      for (std::int64_t head = 0; head < heads; ++head) rms_norm_float(row + head * d, weight, context.config.norm_epsilon, d, row + head * d);
    }
  };
  if (context.config.query_key_norm) {
    norm_heads(Role::QueryNorm, 0, sizes.heads);
    norm_heads(Role::KeyNorm, key_column_, sizes.kv_heads);
  }
  if (!context.rope.query_factors.defined()) return;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float factor = context.rope.query_factors.const_data_ptr<float>()[t];
    for (std::int64_t i = 0; i < sizes.heads * d; ++i) projected[t * stride + i] *= factor;
  }
}

bool Bf16Layer::is_of(const LayerWeights& layer) const {
  for (const auto& [name, kept] : sources_) {
    const auto found = layer.tensors.find(name);
    if (found == layer.tensors.end() || !found->second.is_same(kept.first) || version(found->second) != kept.second) return false;
  }
  return true;
}

void Bf16Layer::normalise(const LayerContext& context, Role norm, const float* x, std::int64_t tokens, std::int64_t n, Bf16* to) const {
  if (context.config.sliced) return fused_rms_norm_bf16(x, tokens, n, context.config.hidden, context.config.norm_epsilon, to);
  const float* weight = source(norm).const_data_ptr<float>();
  for (std::int64_t t = 0; t < tokens; ++t) rms_norm_bf16(x + t * n, weight, context.config.norm_epsilon, n, to + t * n);
}

void Bf16Layer::project(const Bf16* x, std::int64_t tokens, std::int64_t width, float* projected) const {
  const std::int64_t stride = qkv_.padded_columns();
  product(x, width, tokens, qkv_, [&](std::int64_t row, std::int64_t rows, std::int64_t column, const float* tile) {
    for (std::int64_t r = 0; r < rows; ++r) {
      float* to = projected + (row + r) * stride + column;
      if (bias_.empty()) {
        std::copy_n(tile + r * kTileColumns, kTileColumns, to);
      } else {
        add_float(tile + r * kTileColumns, bias_.data() + column, kTileColumns, to);
      }
    }
  });
}

void add_product(const Bf16* input, std::int64_t lda, std::int64_t tokens, const PackedBf16& weight, std::int64_t n, const float* residual, float* to) {
  product(input, lda, tokens, weight, [&](std::int64_t row, std::int64_t rows, std::int64_t column, const float* tile) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t at = (row + r) * n + column;
      add_float(residual + at, tile + r * kTileColumns, std::min(kTileColumns, n - column), to + at);
    }
  });
}

void Bf16Layer::add_block(const Rotation& rotation, const at::Tensor& input, const PackedBf16& weight, const float* stream, float* to) const {
  const std::int64_t tokens = input.size(0);
  if (rotation.in() > 0) rotation.carry(stream, tokens, to);
  add_product(bits(input), input.size(1), tokens, weight, weight.columns(), rotation.in() > 0 ? to : stream, to);
}

void Bf16Layer::attend(const LayerContext& context, const float* projected, std::int64_t tokens, Bf16* mixed) const {
  const LayerConfig& sizes = context.sizes;
  const std::int64_t stride = qkv_.padded_columns(), half = sizes.head_dim / 2, width = sizes.heads * sizes.head_dim;
  const float *cosines = context.rope.cosines.const_data_ptr<float>(), *sines = context.rope.sines.const_data_ptr<float>();
  const auto window = [&](std::int64_t count, const float* rows, const float* cosine_rows, const float* sine_rows, Bf16* to) {
    causal_attention_bf16({count, sizes.heads, sizes.kv_heads, sizes.head_dim, sizes.window}, rows, rows + key_column_, rows + value_column_, stride,
                          cosine_rows, sine_rows, to);
  };
  if (context.shared == nullptr) return window(tokens, projected, cosines, sines, mixed);
  std::vector<float> rows, cosine_rows, sine_rows;  // of a sequence whose rows lie in two places
  std::vector<Bf16> both;
  for (const SharedSequence& sequence : context.shared->sequences) {
    if (sequence.prefix == 0) {
      window(sequence.length, projected + sequence.begin * stride, cosines + sequence.begin * half, sines + sequence.begin * half,
             mixed + sequence.begin * width);
      continue;
    }
    const auto joined = [&](const float* from, std::int64_t columns, std::vector<float>& to) {
      to.assign(from + sequence.prefix_begin * columns, from + (sequence.prefix_begin + sequence.prefix) * columns);
      to.insert(to.end(), from + sequence.begin * columns, from + (sequence.begin + sequence.length) * columns);
      return to.data();
    };
    const std::int64_t count = sequence.prefix + sequence.length;
    both.resize(static_cast<std::size_t>(count * width));
    window(count, joined(projected, stride, rows), joined(cosines, half, cosine_rows), joined(sines, half, sine_rows), both.data());
    std::copy_n(both.data() + sequence.prefix * width, sequence.length * width, mixed + sequence.begin * width);
  }
}

void Bf16Layer::attend_inputs(const LayerContext& context, const at::Tensor& x, const at::Tensor& mixed) const {
  const std::int64_t tokens = x.size(0);
  const at::Tensor qkv = scratch(1, tokens, qkv_.padded_columns(), at::kFloat);
  float* projected = qkv.data_ptr<float>();
  project(bits(x), tokens, x.size(1), projected);
  prepare_heads(context, tokens, projected);
  attend(context, projected, tokens, bits(mixed));
}

void Bf16Layer::gate(const at::Tensor& x, const at::Tensor& gated) const {
  const std::int64_t width = gated.size(1);
  product(bits(x), x.size(1), x.size(0), gate_up_, [&](std::int64_t row, std::int64_t rows, std::int64_t column, const float* tile) {
    const std::int64_t first = column / 2, count = std::min(kPanel, width - first);
    for (std::int64_t r = 0; r < rows; ++r) {
      silu_times_bf16(tile + r * kTileColumns, tile + r * kTileColumns + kPanel, count, bits(gated) + (row + r) * width + first);
    }
  });
}

at::Tensor Bf16Layer::run(const LayerContext& context, const at::Tensor& hidden, const InputObserver& observer, bool inputs_only) const {
  const LayerConfig& sizes = context.sizes;
  const std::int64_t tokens = hidden.size(0), n = hidden.size(1), width = sizes.mlp_width;
  const float* from = hidden.const_data_ptr<float>();
  const auto observe = [&](InputSite site, const at::Tensor& input) {
    if (observer) observer({site}, input);
  };
  at::Tensor output = at::empty({tokens, down_.columns()}, at::kFloat);
  // The stream behind attention: in a sliced layer of a width of its own.
  const at::Tensor between = context.config.sliced ? scratch(5, tokens, o_.columns(), at::kFloat) : output;
  float *out = output.data_ptr<float>(), *middle = between.data_ptr<float>();

  const at::Tensor x = scratch(0, tokens, n, at::kBFloat16);
  normalise(context, Role::InputNorm, from, tokens, n, bits(x));
  observe(InputSite::Attention, x);
  const at::Tensor mixed = scratch(2, tokens, sizes.heads * sizes.head_dim, at::kBFloat16);
  attend_inputs(context, x, mixed);
  observe(InputSite::AttentionOutput, mixed);
  add_block(attention_rotation_, mixed, o_, from, middle);

  const at::Tensor y = scratch(3, tokens, between.size(1), at::kBFloat16);
  normalise(context, Role::MlpNorm, middle, tokens, between.size(1), bits(y));
  observe(InputSite::Mlp, y);
  const at::Tensor gated = scratch(4, tokens, width, at::kBFloat16);
  gate(y, gated);
  observe(InputSite::MlpOutput, gated);
  if (!inputs_only) add_block(mlp_rotation_, gated, down_, middle, out);
  return output;
}

at::Tensor Bf16Layer::attention_input(const LayerContext& context, const at::Tensor& hidden) const {
  const at::Tensor x = at::empty(hidden.sizes(), at::kBFloat16);
  normalise(context, Role::InputNorm, hidden.const_data_ptr<float>(), hidden.size(0), hidden.size(1), bits(x));
  return x;
}

at::Tensor Bf16Layer::attention_inside(const LayerContext& context, const at::Tensor& input) const {
  const at::Tensor mixed = at::empty({input.size(0), context.sizes.heads * context.sizes.head_dim}, at::kBFloat16);
  attend_inputs(context, input, mixed);
  return mixed;
}

at::Tensor Bf16Layer::behind_attention(const LayerContext&, const at::Tensor& hidden, const at::Tensor& inside) const {
  const at::Tensor stream = at::empty({hidden.size(0), o_.columns()}, at::kFloat);
  add_block(attention_rotation_, inside, o_, hidden.const_data_ptr<float>(), stream.data_ptr<float>());
  return stream;
}

at::Tensor Bf16Layer::mlp_input(const LayerContext& context, const at::Tensor& middle) const {
  const at::Tensor y = at::empty(middle.sizes(), at::kBFloat16);
  normalise(context, Role::MlpNorm, middle.const_data_ptr<float>(), middle.size(0), middle.size(1), bits(y));
  return y;
}

at::Tensor Bf16Layer::mlp_inside(const LayerContext& context, const at::Tensor& input) const {
  const at::Tensor gated = at::empty({input.size(0), context.sizes.mlp_width}, at::kBFloat16);
  gate(input, gated);
  return gated;
}

at::Tensor Bf16Layer::behind_mlp(const LayerContext&, const at::Tensor& middle, const at::Tensor& inside) const {
  const at::Tensor stream = at::empty({middle.size(0), down_.columns()}, at::kFloat);
  add_block(mlp_rotation_, inside, down_, middle.const_data_ptr<float>(), stream.data_ptr<float>());
  return stream;
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

void bf16_logits(const PackedBf16& head, const at::Tensor& x, at::Tensor& to) {
  const std::int64_t n = x.size(1), vocabulary = head.columns();
  float* out = to.data_ptr<float>();
  product(bits(x), n, x.size(0), head, [&](std::int64_t row, std::int64_t rows, std::int64_t column, const float* tile) {
    const std::int64_t count = std::min(kTileColumns, vocabulary - column);
    for (std::int64_t r = 0; r < rows && count > 0; ++r) std::copy_n(tile + r * kTileColumns, count, out + (row + r) * vocabulary + column);
  });
}

}  // namespace miq
