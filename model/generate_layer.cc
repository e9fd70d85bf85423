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

MIQ_CLONES void add_to(const float* x, std::int64_t n, float* to) {
  for (std::int64_t i = 0; i < n; ++i) to[i] += x[i];
}

// `to` may be `x`.
void rms_norm(const float* x, const float* weight, double epsilon, std::int64_t n, float* to) {
  const double mean = static_cast<double>(sum_of_squares(x, n)) / static_cast<double>(n);
  scale_by(x, weight, static_cast<float>(1 / std::sqrt(mean + epsilon)), n, to);
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
  std::vector<float> x, projected, mixed, gated;
};

bool StepLayer::supports(const Config& config, const LayerConfig& sizes) {
  return config.norm == NormKind::Rms && config.norm_first && config.activation == Activation::Silu && config.gated_mlp && !config.output_bias &&
         !config.mlp_bias && !config.sliced && config.positions == Positions::Rotary && sizes.experts == 0 && !sizes.identity;
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
  input_norm_ = floats(Role::InputNorm, false), mlp_norm_ = floats(Role::MlpNorm, false);
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
      if (norm) rms_norm(q + head * d, norm, config_.norm_epsilon, d, q + head * d);
      rotate(q + head * d, cosines, sines, half, head < sizes_.heads ? factor : 1);
    }
    rows[row].cache->store(index_, rows[row].position, k, v);
  }
}

void StepLayer::add_product(const Matrix& matrix, const float* x, std::int64_t rows, float* hidden, ThreadPool& pool) const {
  const std::int64_t height = tile_rows(matrix);
  pool.for_each((matrix.out + height - 1) / height, [&](std::int64_t unit) {
    const std::int64_t begin = unit * height, end = std::min(matrix.out, begin + height);
    thread_local std::vector<float> made;
    made.resize(static_cast<std::size_t>(rows * (end - begin)));
    multiply(matrix, begin, end, x, rows, made.data(), end - begin);
    for (std::int64_t row = 0; row < rows; ++row) add_to(made.data() + row * (end - begin), end - begin, hidden + row * matrix.out + begin);
  });
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

void StepLayer::run(std::span<const StepRow> rows, const RopeTable& rope, float* hidden, ThreadPool& pool) const {
  const auto count = static_cast<std::int64_t>(rows.size());
  const std::int64_t n = config_.hidden, group = sizes_.heads / sizes_.kv_heads * sizes_.head_dim;
  thread_local Buffers buffers;  // from one layer to the next
  buffers.stride = q_.out + k_.out + v_.out;
  buffers.x.resize(static_cast<std::size_t>(count * n));
  buffers.projected.resize(static_cast<std::size_t>(count * buffers.stride));
  buffers.mixed.resize(static_cast<std::size_t>(count * q_.out));
  buffers.gated.resize(static_cast<std::size_t>(count * gate_.out));
  Buffers& own = buffers;  // units run in other threads
  for (std::int64_t row = 0; row < count; ++row) rms_norm(hidden + row * n, input_norm_, config_.norm_epsilon, n, own.x.data() + row * n);
  project(count, own, pool);
  place(rows, rope, own);
  pool.for_each(count * sizes_.kv_heads, [&](std::int64_t unit) {
    const std::int64_t row = unit / sizes_.kv_heads, head = unit % sizes_.kv_heads;
    const StepRow& token = rows[static_cast<std::size_t>(row)];
    token.cache->attend(index_, sizes_, token.position, head, own.projected.data() + row * own.stride + head * group,
                        own.mixed.data() + row * q_.out + head * group);
  });
  add_product(o_, own.mixed.data(), count, hidden, pool);
  for (std::int64_t row = 0; row < count; ++row) rms_norm(hidden + row * n, mlp_norm_, config_.norm_epsilon, n, own.x.data() + row * n);
  gate(count, own, pool);
  add_product(down_, own.gated.data(), count, hidden, pool);
}

}  // namespace miq
