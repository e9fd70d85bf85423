// Tiles of rows of the weights are handed to the threads; a tile of o or down adds to the rows of the stream that it owns, one of gate and up
// goes through SiLU where it was made. Sums over a row keep 16 lanes in a fixed order.
#include "miq/model/generate_layer.h"

#include <algorithm>
#include <cmath>

#include "miq/model/decoder.h"
#include "miq/model/row_product.h"

#define MIQ_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))

namespace miq {
namespace {

constexpr std::int64_t kTileBytes = 1 << 16;  // of weights
constexpr std::int64_t kLanes = 16;

MIQ_CLONES float sum_of_squares(const float* x, std::int64_t n) {
  float lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::int64_t l = 0; l < kLanes; ++l) lanes[l] += x[i + l] * x[i + l];
  }
  for (std::int64_t l = 0; i + l < n; ++l) lanes[l] += x[i + l] * x[i + l];
  for (std::int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::int64_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

MIQ_CLONES void scale_by(const float* x, const float* weight, float scale, std::int64_t n, float* to) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = x[i] * scale * weight[i];
}

MIQ_CLONES void scale_by(const float* x, float scale, std::int64_t n, float* to) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = x[i] * scale;
}

MIQ_CLONES void add_to(const float* x, std::int64_t n, float* to) {
  for (std::int64_t i = 0; i < n; ++i) to[i] += x[i];
}

MIQ_CLONES void add_both(const float* a, const float* b, std::int64_t n, float* to) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = a[i] + b[i];
}

// The sum of squares is divided by `mean_width`. No weight: all are 1. `to` may be `x`.
void rms_norm(const float* x, const float* weight, double epsilon, std::int64_t n, std::int64_t mean_width, float* to) {
  const double mean = static_cast<double>(sum_of_squares(x, n)) / static_cast<double>(mean_width);
  const auto scale = static_cast<float>(1 / std::sqrt(mean + epsilon));
  weight ? scale_by(x, weight, scale, n, to) : scale_by(x, scale, n, to);
}

MIQ_CLONES void rotate(float* x, const float* cosines, const float* sines, std::int64_t half, float factor) {
  for (std::int64_t i = 0; i < half; ++i) {
    const float low = x[i] * cosines[i] - x[half + i] * sines[i], high = x[half + i] * cosines[i] + x[i] * sines[i];
    x[i] = low * factor;
    x[half + i] = high * factor;
  }
}

std::int64_t width_of(const LayerConfig& sizes, std::int64_t heads) { return heads * sizes.head_dim; }

}  // namespace

struct StepLayer::Buffers {
  std::int64_t stride;                  // of projected: q, k and v of a row side by side
  std::vector<float> x, projected, mixed, middle, gated;
};

bool StepLayer::supports(const Config& config, const LayerConfig& sizes) {
  return config.norm == (config.sliced ? NormKind::FusedRms : NormKind::Rms) && config.norm_first && config.activation == Activation::Silu &&
         config.gated_mlp && !config.output_bias && !config.mlp_bias && config.positions == Positions::Rotary && sizes.experts == 0 && !sizes.identity;
}

StepLayer::StepLayer(const Config& config, const LayerWeights& layer)
    : config_(config), sizes_(config.layers.at(static_cast<std::size_t>(layer.index))), index_(static_cast<std::size_t>(layer.index)) {
  const Architecture& rules = architecture(config.architecture);
  const auto floats = [&](Role role, bool bias) -> const float* {
    const auto found = layer.tensors.find(rule_name(rules, role, bias));
    if (found == layer.tensors.end()) return nullptr;
    kept_.push_back(found->second.to(at::kFloat).contiguous());
    return kept_.back().const_data_ptr<float>();
  };
  const auto whole = [&](Role role) {
    const at::Tensor weight = layer.tensor(rule_name(rules, role));
    return Matrix{weight, 0, weight.size(0), floats(role, true)};
  };
  const std::int64_t query = width_of(sizes_, sizes_.heads), key = width_of(sizes_, sizes_.kv_heads);
  if (rule_name(rules, Role::QueryKeyValue).empty()) {
    q_ = whole(Role::Query), k_ = whole(Role::Key), v_ = whole(Role::Value);
  } else {
    const Matrix all = whole(Role::QueryKeyValue);
    const auto part = [&](std::int64_t first, std::int64_t out) { return Matrix{all.weight, first, out, all.bias ? all.bias + first : nullptr}; };
    q_ = part(0, query), k_ = part(query, key), v_ = part(query + key, key);
  }
  o_ = whole(Role::AttentionOutput), gate_ = whole(Role::Gate), up_ = whole(Role::Up), down_ = whole(Role::Down);
  if (config.sliced) {
    const auto rotation = [&](Role role) {  // stored [in, out]
      const at::Tensor weight = layer.tensor(rule_name(rules, role)).t();
      return Matrix{weight, 0, weight.size(0), nullptr};
    };
    attention_rotation_ = rotation(Role::AttentionRotation), mlp_rotation_ = rotation(Role::MlpRotation);
  } else {
    input_norm_ = floats(Role::InputNorm, false), mlp_norm_ = floats(Role::MlpNorm, false);
  }
  if (!config.query_key_norm) return;
  query_norm_ = floats(Role::QueryNorm, false), key_norm_ = floats(Role::KeyNorm, false);
}

// y[r * ldy + o - begin] for outputs begin <= o < end.
void StepLayer::multiply(const Matrix& matrix, std::int64_t begin, std::int64_t end, const float* x, std::int64_t rows, float* y, std::int64_t ldy) const {
  const std::int64_t in = matrix.weight.size(1), from = (matrix.first + begin) * in;
  if (matrix.weight.scalar_type() == at::kFloat) {
    row_products(x, in, rows, matrix.weight.const_data_ptr<float>() + from, in, end - begin, y, ldy);
  } else {
    row_products(x, in, rows, static_cast<const Bf16*>(matrix.weight.const_data_ptr()) + from, in, end - begin, y, ldy);
  }
  for (std::int64_t row = 0; matrix.bias && row < rows; ++row) add_to(matrix.bias + begin, end - begin, y + row * ldy);
}

std::int64_t StepLayer::tile_rows(const Matrix& matrix) const {
  return std::max<std::int64_t>(16, kTileBytes / std::max<std::int64_t>(1, matrix.weight.size(1) * static_cast<std::int64_t>(matrix.weight.element_size())));
}

void StepLayer::project(std::int64_t rows, Buffers& buffers, ThreadPool& pool) const {
  const Matrix* matrices[] = {&q_, &k_, &v_};
  const std::int64_t height = tile_rows(q_);
  std::int64_t tiles[4] = {};
  for (int m = 0; m < 3; ++m) tiles[m + 1] = tiles[m] + (matrices[m]->out + height - 1) / height;
  pool.for_each(tiles[3], [&](std::int64_t unit) {
    const int m = unit < tiles[1] ? 0 : unit < tiles[2] ? 1 : 2;
    const std::int64_t begin = (unit - tiles[m]) * height, end = std::min(matrices[m]->out, begin + height);
    const std::int64_t column = m == 0 ? 0 : m == 1 ? q_.out : q_.out + k_.out;
    multiply(*matrices[m], begin, end, buffers.x.data(), rows, buffers.projected.data() + column + begin, buffers.stride);
  });
}

// Norms of heads, rotation; keys and values into the caches.
void StepLayer::place(std::span<const StepRow> rows, const RopeTable& rope, Buffers& buffers) const {
  const std::int64_t d = sizes_.head_dim, half = d / 2;
  for (std::size_t row = 0; row < rows.size(); ++row) {
    float* q = buffers.projected.data() + static_cast<std::int64_t>(row) * buffers.stride;
    float *k = q + q_.out, *v = k + k_.out;
    const float* cosines = rope.cosines.const_data_ptr<float>() + static_cast<std::int64_t>(row) * half;
    const float* sines = rope.sines.const_data_ptr<float>() + static_cast<std::int64_t>(row) * half;
    const float factor = rope.query_factors.defined() ? rope.query_factors.const_data_ptr<float>()[row] : 1;
    for (std::int64_t head = 0; head < sizes_.heads + sizes_.kv_heads; ++head) {  // keys follow queries
      const float* norm = head < sizes_.heads ? query_norm_ : key_norm_;
      if (norm) rms_norm(q + head * d, norm, config_.norm_epsilon, d, d, q + head * d);
      rotate(q + head * d, cosines, sines, half, head < sizes_.heads ? factor : 1);
    }
    rows[row].cache->store(index_, rows[row].position, k, v);
  }
}

// to[r] = stream[r], rotated where there is a rotation, + matrix x[r]. `to` may be `stream` where there is none.
void StepLayer::add_block(const Matrix& rotation, const Matrix& matrix, const float* stream, const float* x, std::int64_t rows, float* to,
                          ThreadPool& pool) const {
  const std::int64_t height = tile_rows(matrix);
  pool.for_each((matrix.out + height - 1) / height, [&](std::int64_t unit) {
    const std::int64_t begin = unit * height, end = std::min(matrix.out, begin + height), count = end - begin;
    thread_local std::vector<float> made;
    made.resize(static_cast<std::size_t>(2 * rows * count));
    float *product = made.data(), *rotated = product + rows * count;
    multiply(matrix, begin, end, x, rows, product, count);
    if (rotation.out > 0) multiply(rotation, begin, end, stream, rows, rotated, count);
    for (std::int64_t row = 0; row < rows; ++row) {
      const float* from = rotation.out > 0 ? rotated + row * count : stream + row * matrix.out + begin;
      add_both(from, product + row * count, count, to + row * matrix.out + begin);
    }
  });
}

void StepLayer::normalise(const float* stream, const float* weight, std::int64_t rows, std::int64_t width, float* to) const {
  const std::int64_t mean_width = config_.sliced ? config_.hidden : width;  // NormKind::FusedRms
  for (std::int64_t row = 0; row < rows; ++row) rms_norm(stream + row * width, weight, config_.norm_epsilon, width, mean_width, to + row * width);
}

// silu(gate x) * (up x)
void StepLayer::gate(std::int64_t rows, Buffers& buffers, ThreadPool& pool) const {
  const std::int64_t height = std::max<std::int64_t>(16, tile_rows(gate_) / 2);
  pool.for_each((gate_.out + height - 1) / height, [&](std::int64_t unit) {
    const std::int64_t begin = unit * height, end = std::min(gate_.out, begin + height), count = end - begin;
    thread_local std::vector<float> made;
    made.resize(static_cast<std::size_t>(2 * rows * count));
    float *gates = made.data(), *ups = gates + rows * count;
    multiply(gate_, begin, end, buffers.x.data(), rows, gates, count);
    multiply(up_, begin, end, buffers.x.data(), rows, ups, count);
    for (std::int64_t row = 0; row < rows; ++row) {
      float* to = buffers.gated.data() + row * gate_.out + begin;
      for (std::int64_t i = 0; i < count; ++i) {
        const float g = gates[row * count + i];
        to[i] = g / (1 + std::exp(-g)) * ups[row * count + i];
      }
    }
  });
}

void StepLayer::run(std::span<const StepRow> rows, const RopeTable& rope, const float* hidden, float* output, ThreadPool& pool) const {
  const auto count = static_cast<std::int64_t>(rows.size());
  const std::int64_t width = input_width(config_, sizes_), middle = middle_width(config_, sizes_);
  const std::int64_t group = sizes_.heads / sizes_.kv_heads * sizes_.head_dim;
  thread_local Buffers buffers;  // from one layer to the next
  buffers.stride = q_.out + k_.out + v_.out;
  buffers.x.resize(static_cast<std::size_t>(count * std::max(width, middle)));
  buffers.projected.resize(static_cast<std::size_t>(count * buffers.stride));
  buffers.mixed.resize(static_cast<std::size_t>(count * q_.out));
  buffers.middle.resize(static_cast<std::size_t>(count * middle));
  buffers.gated.resize(static_cast<std::size_t>(count * gate_.out));
  Buffers& own = buffers;  // units run in other threads
  normalise(hidden, input_norm_, count, width, own.x.data());
  project(count, own, pool);
  place(rows, rope, own);
  pool.for_each(count * sizes_.kv_heads, [&](std::int64_t unit) {
    const std::int64_t row = unit / sizes_.kv_heads, head = unit % sizes_.kv_heads;
    const StepRow& token = rows[static_cast<std::size_t>(row)];
    token.cache->attend(index_, sizes_, token.position, head, own.projected.data() + row * own.stride + head * group,
                        own.mixed.data() + row * q_.out + head * group);
  });
  add_block(attention_rotation_, o_, hidden, own.mixed.data(), count, own.middle.data(), pool);
  normalise(own.middle.data(), mlp_norm_, count, middle, own.x.data());
  gate(count, own, pool);
  add_block(mlp_rotation_, down_, own.middle.data(), own.gated.data(), count, output, pool);
}

}  // namespace miq
