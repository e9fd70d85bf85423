// The layer is run again up to its last product, and then back. Gradients are rounded to bfloat16 where a product reads them,
// which is what LibTorch's autograd of decoder.cc does in this compute type; between products they stay in float32, where
// autograd rounds more often. Products with transposed weights read matrices packed once a layer.
#include <ATen/ops/empty.h>

#include <algorithm>
#include <vector>

#include "miq/model/bf16_elementwise.h"
#include "miq/model/bf16_layer.h"

namespace miq {
namespace {

Bf16* bits(const at::Tensor& tensor) { return reinterpret_cast<Bf16*>(tensor.data_ptr<at::BFloat16>()); }

PackedBf16 transpose(std::int64_t columns, std::initializer_list<at::Tensor> weights) {
  std::int64_t inner = 0;
  for (const at::Tensor& weight : weights) inner += weight.size(0);
  PackedBf16 packed(inner, columns);
  inner = 0;
  for (const at::Tensor& weight : weights) {
    const at::Tensor rows = weight.detach().to(at::kBFloat16).contiguous();
    packed.set_inner(inner, bits(rows), columns, rows.size(0));
    inner += rows.size(0);
  }
  return packed;
}

// A thread's buffers, kept from one window to the next.
struct Buffers {
  std::vector<float> projected, middle, gate, up, back;  // q, k and v; after attention; of the MLP; a gradient of the stream
  std::vector<Bf16> input, narrow;
};

template <typename Value>
Value* sized(std::vector<Value>& buffer, std::int64_t size) {
  if (static_cast<std::int64_t>(buffer.size()) < size) buffer.resize(static_cast<std::size_t>(size));
  return buffer.data();
}

at::Tensor gradient_rows(std::int64_t tokens, std::int64_t width) { return at::empty({tokens, width}, at::kBFloat16); }

}  // namespace

const Bf16Layer::Transposed& Bf16Layer::transposed(const LayerConfig& sizes) const {
  std::call_once(transposing_, [&] {
    const std::int64_t n = qkv_.inner();
    transposed_.qkv = has(Role::QueryKeyValue) ? transpose(n, {source(Role::QueryKeyValue)})
                                               : transpose(n, {source(Role::Query), source(Role::Key), source(Role::Value)});
    transposed_.o = transpose(sizes.heads * sizes.head_dim, {source(Role::AttentionOutput)});
    transposed_.gate_up = transpose(n, {source(Role::Gate), source(Role::Up)});
    transposed_.down = transpose(sizes.mlp_width, {source(Role::Down)});
  });
  return transposed_;
}

struct Bf16Layer::Backward {
  const Bf16Layer& layer;
  const LayerContext& context;
  const Transposed& weights;
  const ForwardPass::GradientObserver& observer;
  const std::int64_t tokens;
  Buffers& buffers;
  const LayerConfig& sizes = context.sizes;
  const std::int64_t n = context.config.hidden, query = sizes.heads * sizes.head_dim, key = sizes.kv_heads * sizes.head_dim,
                     stride = layer.qkv_.padded_columns(), width = sizes.mlp_width;
  const AttentionSizes attention{tokens, sizes.heads, sizes.kv_heads, sizes.head_dim, sizes.window};

  void show(Role role, const at::Tensor& gradient) const {
    if (observer) observer(rule_name(*layer.rules_, role), gradient);
  }

  at::Tensor narrowed(const float* gradient) const {
    at::Tensor result = gradient_rows(tokens, n);
    for (std::int64_t t = 0; t < tokens; ++t) scale_bf16(gradient + t * n, 1.0f, n, bits(result) + t * n);
    return result;
  }

  // Fills projected, middle, gate and up.
  void run(const float* hidden) const {
    Bf16* x = sized(buffers.input, tokens * n);
    layer.normalise(context, Role::InputNorm, hidden, tokens, n, x);
    float* projected = sized(buffers.projected, tokens * stride);
    layer.project(x, tokens, n, projected);
    Bf16* mixed = sized(buffers.narrow, tokens * query);
    causal_attention_bf16(attention, projected, projected + layer.key_column_, projected + layer.value_column_, stride,
                          context.rope.cosines.const_data_ptr<float>(), context.rope.sines.const_data_ptr<float>(), mixed);
    float* middle = sized(buffers.middle, tokens * n);
    add_product(mixed, query, tokens, layer.o_, n, hidden, middle);
    layer.normalise(context, Role::MlpNorm, middle, tokens, n, x);
    float *gate = sized(buffers.gate, tokens * width), *up = sized(buffers.up, tokens * width);
    product(x, n, tokens, layer.gate_up_, [&](std::int64_t row, std::int64_t rows, std::int64_t column, const float* tile) {
      const std::int64_t first = column / 2, count = std::min(kPanel, width - first);
      for (std::int64_t r = 0; r < rows; ++r) {
        std::copy_n(tile + r * kTileColumns, count, gate + (row + r) * width + first);
        std::copy_n(tile + r * kTileColumns + kPanel, count, up + (row + r) * width + first);
      }
    });
  }

  // to = gradient + what comes through the norm of x, whose own gradient is inputs * weight.
  void add_norm(Role norm, const float* x, const at::Tensor& inputs, const PackedBf16& weight, const float* gradient, float* to) const {
    float* back = sized(buffers.back, tokens * n);
    product(bits(inputs), inputs.size(1), tokens, weight, [&](std::int64_t row, std::int64_t rows, std::int64_t column, const float* tile) {
      for (std::int64_t r = 0; r < rows; ++r) std::copy_n(tile + r * kTileColumns, std::min(kTileColumns, n - column), back + (row + r) * n + column);
    });
    const float* gain = layer.source(norm).const_data_ptr<float>();
    for (std::int64_t t = 0; t < tokens; ++t) {
      rms_norm_backward(x + t * n, gain, context.config.norm_epsilon, n, back + t * n, gradient + t * n, to + t * n);
    }
  }

  // d loss / d middle.
  void mlp(const float* gradient, float* to) const {
    const at::Tensor down = narrowed(gradient), gate_up = gradient_rows(tokens, 2 * width);
    const float *gate = buffers.gate.data(), *up = buffers.up.data();
    Bf16* out = bits(gate_up);
    product(bits(down), n, tokens, weights.down, [&](std::int64_t row, std::int64_t rows, std::int64_t column, const float* tile) {
      const std::int64_t count = std::min(kTileColumns, width - column);
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t at = (row + r) * width + column;
        Bf16* row_out = out + (row + r) * 2 * width + column;
        silu_times_backward_bf16(tile + r * kTileColumns, gate + at, up + at, count, row_out, row_out + width);
      }
    });
    show(Role::Gate, gate_up.narrow(1, 0, width));
    show(Role::Up, gate_up.narrow(1, width, width));
    show(Role::Down, down);
    add_norm(Role::MlpNorm, buffers.middle.data(), gate_up, weights.gate_up, gradient, to);
  }

  // d loss / d hidden, from d loss / d middle.
  void attend(const float* hidden, const float* gradient, float* to) const {
    const at::Tensor output = narrowed(gradient), qkv = gradient_rows(tokens, query + 2 * key);
    Bf16* mixed = sized(buffers.narrow, tokens * query);
    product(bits(output), n, tokens, weights.o, [&](std::int64_t row, std::int64_t rows, std::int64_t column, const float* tile) {
      for (std::int64_t r = 0; r < rows; ++r) {
        scale_bf16(tile + r * kTileColumns, 1.0f, std::min(kTileColumns, query - column), mixed + (row + r) * query + column);
      }
    });
    const float* projected = buffers.projected.data();
    causal_attention_backward_bf16(attention, projected, projected + layer.key_column_, projected + layer.value_column_, stride,
                                   context.rope.cosines.const_data_ptr<float>(), context.rope.sines.const_data_ptr<float>(), mixed, bits(qkv));
    if (layer.has(Role::QueryKeyValue)) {
      show(Role::QueryKeyValue, qkv);
    } else {
      show(Role::Query, qkv.narrow(1, 0, query));
      show(Role::Key, qkv.narrow(1, query, key));
      show(Role::Value, qkv.narrow(1, query + key, key));
    }
    show(Role::AttentionOutput, output);
    add_norm(Role::InputNorm, hidden, qkv, weights.qkv, gradient, to);
  }
};

at::Tensor Bf16Layer::backward(const LayerContext& context, const at::Tensor& hidden, const at::Tensor& gradient,
                               const ForwardPass::GradientObserver& observer) const {
  thread_local Buffers buffers;
  const Backward back{*this, context, transposed(context.sizes), observer, hidden.size(0), buffers};
  const float* from = hidden.const_data_ptr<float>();
  back.run(from);
  at::Tensor result = at::empty(hidden.sizes(), at::kFloat);
  float* to = result.data_ptr<float>();
  back.mlp(gradient.const_data_ptr<float>(), to);
  back.attend(from, to, to);
  return result;
}

}  // namespace miq
