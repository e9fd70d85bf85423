// The forward pass of every family in naive double-precision loops: one token, one head, one element at a time.
// Only the tensors' names come from the tables that the code under test reads; compare_families.py holds those
// against transformers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <numbers>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "miq/model/architecture.h"
#include "miq/model/config.h"

namespace miq::reference {

struct Matrix {
  std::int64_t rows = 0, cols = 0;
  std::vector<double> data;
  Matrix() = default;
  Matrix(std::int64_t r, std::int64_t c) : rows(r), cols(c), data(static_cast<std::size_t>(r * c)) {}
  double& at(std::int64_t r, std::int64_t c) { return data[static_cast<std::size_t>(r * cols + c)]; }
  double at(std::int64_t r, std::int64_t c) const { return data[static_cast<std::size_t>(r * cols + c)]; }
};

// x [tokens, in], w [out, in] -> [tokens, out]
inline Matrix linear(const Matrix& x, const Matrix& w) {
  Matrix y(x.rows, w.rows);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t o = 0; o < w.rows; ++o) {
      for (std::int64_t i = 0; i < x.cols; ++i) y.at(t, o) += x.at(t, i) * w.at(o, i);
    }
  }
  return y;
}

inline Matrix rms_norm(const Matrix& x, const Matrix& w, double epsilon) {
  Matrix y(x.rows, x.cols);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    double squares = 0;
    for (std::int64_t i = 0; i < x.cols; ++i) squares += x.at(t, i) * x.at(t, i);
    const double scale = 1 / std::sqrt(squares / static_cast<double>(x.cols) + epsilon);
    for (std::int64_t i = 0; i < x.cols; ++i) y.at(t, i) = x.at(t, i) * scale * w.data[static_cast<std::size_t>(i)];
  }
  return y;
}

inline Matrix layer_norm(const Matrix& x, const Matrix& w, const Matrix* bias, double epsilon) {
  Matrix y(x.rows, x.cols);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    double mean = 0, variance = 0;
    for (std::int64_t i = 0; i < x.cols; ++i) mean += x.at(t, i) / static_cast<double>(x.cols);
    for (std::int64_t i = 0; i < x.cols; ++i) variance += (x.at(t, i) - mean) * (x.at(t, i) - mean) / static_cast<double>(x.cols);
    for (std::int64_t i = 0; i < x.cols; ++i) {
      const auto at = static_cast<std::size_t>(i);
      y.at(t, i) = (x.at(t, i) - mean) / std::sqrt(variance + epsilon) * w.data[at] + (bias ? bias->data[at] : 0);
    }
  }
  return y;
}

// SliceGPT's: no weights, and the sum of squares is divided by the width before slicing.
inline Matrix fused_rms_norm(const Matrix& x, std::int64_t original_width, double epsilon) {
  Matrix y(x.rows, x.cols);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    double squares = 0;
    for (std::int64_t i = 0; i < x.cols; ++i) squares += x.at(t, i) * x.at(t, i);
    for (std::int64_t i = 0; i < x.cols; ++i) y.at(t, i) = x.at(t, i) / std::sqrt(squares / static_cast<double>(original_width) + epsilon);
  }
  return y;
}

// Inverse frequency of pair i for a text of `tokens`, as transformers' modeling_rope_utils.py states it, and
// modeling_qwen.py for QwenDynamic.
inline double inverse_frequency(const Config& config, std::int64_t head_dim, std::int64_t i, std::int64_t tokens) {
  using Kind = RopeScaling::Kind;
  const RopeScaling& s = config.rope_scaling;
  const double dim = static_cast<double>(head_dim), original = static_cast<double>(s.original_max_positions);
  double base = config.rope_theta;
  if (s.kind == Kind::Dynamic) {
    const double length = std::max(static_cast<double>(tokens), original);
    base *= std::pow(s.factor * length / original - (s.factor - 1), dim / (dim - 2));
  }
  if (s.kind == Kind::QwenDynamic && static_cast<double>(tokens) > original) {
    base *= std::pow(std::pow(2, std::ceil(std::log2(static_cast<double>(tokens) / original) + 1)) - 1, dim / (dim - 2));
  }
  const double plain = 1 / std::pow(base, 2.0 * static_cast<double>(i) / dim);
  if (s.kind == Kind::Linear) return plain / s.factor;
  if (s.kind == Kind::Yarn) {
    const auto correction = [&](double turns) { return dim * std::log(original / (turns * 2 * std::numbers::pi)) / (2 * std::log(base)); };
    double low = correction(s.beta_fast), high = correction(s.beta_slow);
    if (s.truncate) low = std::floor(low), high = std::ceil(high);
    low = std::max(low, 0.0), high = std::min(high, dim - 1);
    const double ramp = std::clamp((static_cast<double>(i) - low) / (low == high ? 0.001 : high - low), 0.0, 1.0);
    return plain / s.factor * ramp + plain * (1 - ramp);
  }
  if (s.kind != Kind::Llama3) return plain;
  const double wavelength = 2 * std::numbers::pi / plain;
  if (wavelength < original / s.high_frequency_factor) return plain;
  if (wavelength > original / s.low_frequency_factor) return plain / s.factor;
  const double smooth = (original / wavelength - s.low_frequency_factor) / (s.high_frequency_factor - s.low_frequency_factor);
  return (1 - smooth) * plain / s.factor + smooth * plain;
}

// Rotates every head of x [tokens, heads * head_dim] in place. Angles are float32 products by definition.
inline void rotate(Matrix& x, const Config& config, std::int64_t head_dim) {
  const double size = config.rope_scaling.kind == RopeScaling::Kind::Yarn ? config.rope_scaling.attention_factor : 1;
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t h = 0; h < x.cols / head_dim; ++h) {
      for (std::int64_t i = 0; i < head_dim / 2; ++i) {
        const float frequency = static_cast<float>(inverse_frequency(config, head_dim, i, x.rows));
        const double angle = static_cast<float>(t) * frequency;
        double& low = x.at(t, h * head_dim + i);
        double& high = x.at(t, h * head_dim + i + head_dim / 2);
        const double a = low, b = high;
        low = size * (a * std::cos(angle) - b * std::sin(angle));
        high = size * (b * std::cos(angle) + a * std::sin(angle));
      }
    }
  }
}

// Causal softmax attention over rotated q, k. q [tokens, heads * head_dim]; k, v [tokens, kv_heads * head_dim].
// A token sees itself and the window - 1 before it; all where the window is 0.
inline Matrix attention(const Matrix& q, const Matrix& k, const Matrix& v, std::int64_t head_dim, std::int64_t window = 0) {
  const std::int64_t heads = q.cols / head_dim, shared = heads / (k.cols / head_dim);
  Matrix out(q.rows, q.cols);
  for (std::int64_t h = 0; h < heads; ++h) {
    const std::int64_t from = h / shared * head_dim;
    for (std::int64_t t = 0; t < q.rows; ++t) {
      const std::int64_t first = window == 0 ? 0 : std::max<std::int64_t>(0, t - window + 1);
      std::vector<double> weights(static_cast<std::size_t>(t + 1));
      double largest = -HUGE_VAL, sum = 0;
      for (std::int64_t s = first; s <= t; ++s) {
        double score = 0;
        for (std::int64_t i = 0; i < head_dim; ++i) score += q.at(t, h * head_dim + i) * k.at(s, from + i);
        weights[static_cast<std::size_t>(s)] = score / std::sqrt(static_cast<double>(head_dim));
        largest = std::max(largest, weights[static_cast<std::size_t>(s)]);
      }
      for (std::int64_t s = first; s <= t; ++s) sum += weights[static_cast<std::size_t>(s)] = std::exp(weights[static_cast<std::size_t>(s)] - largest);
      for (std::int64_t s = first; s <= t; ++s) {
        for (std::int64_t i = 0; i < head_dim; ++i) out.at(t, h * head_dim + i) += weights[static_cast<std::size_t>(s)] / sum * v.at(s, from + i);
      }
    }
  }
  return out;
}

inline double activated(Activation activation, double x) {
  switch (activation) {
    case Activation::Silu: return x / (1 + std::exp(-x));
    case Activation::Relu: return std::max(x, 0.0);
    case Activation::Gelu: return x / 2 * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::GeluTanh: return x / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
  }
  return 0;
}

inline Matrix columns(const Matrix& x, std::int64_t first, std::int64_t count) {
  Matrix part(x.rows, count);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t i = 0; i < count; ++i) part.at(t, i) = x.at(t, first + i);
  }
  return part;
}

inline Matrix sum(Matrix a, const Matrix& b) {
  for (std::size_t i = 0; i < a.data.size(); ++i) a.data[i] += b.data[i];
  return a;
}

// Which experts a token goes to, and with what weights: those of the largest softmax(router x).
inline std::vector<std::pair<std::int64_t, double>> route(const Config& config, const Matrix& scores, std::int64_t token) {
  std::vector<std::pair<std::int64_t, double>> all;
  double largest = -HUGE_VAL, total = 0, kept = 0;
  for (std::int64_t e = 0; e < scores.cols; ++e) largest = std::max(largest, scores.at(token, e));
  for (std::int64_t e = 0; e < scores.cols; ++e) total += std::exp(scores.at(token, e) - largest);
  for (std::int64_t e = 0; e < scores.cols; ++e) all.emplace_back(e, std::exp(scores.at(token, e) - largest) / total);
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  all.resize(static_cast<std::size_t>(config.experts_per_token));
  for (const auto& [expert, weight] : all) kept += weight;
  if (config.normalise_experts) {
    for (auto& [expert, weight] : all) weight /= kept;
  }
  return all;
}

struct Forward {
  Config config;
  std::map<std::string, Matrix> weights;  // by tensor name; vectors are [1, n]
  // May change the output of a linear; for finite differences.
  std::function<void(std::int64_t layer, std::string_view rule_name, Matrix& output)> on_output;

  const Architecture& rules() const { return architecture(config.architecture); }
  const Matrix* find(const std::string& name) const {
    const auto found = weights.find(name);
    return found == weights.end() ? nullptr : &found->second;
  }
  const Matrix* global(Role role, bool bias = false) const { return find(std::string(global_name(rules(), role, bias))); }
  const Matrix* of_layer(std::int64_t layer, Role role, bool bias = false, std::int64_t expert = -1) const {
    const std::string_view name = rule_name(rules(), role, bias);
    return name.empty() ? nullptr : find(layer_tensor_name(rules(), layer, expert_name(name, expert)));
  }

  Matrix norm(const Matrix& x, const Matrix* weight, const Matrix* bias) const {
    if (config.norm == NormKind::Layer) return layer_norm(x, *weight, bias, config.norm_epsilon);
    if (config.norm == NormKind::FusedRms) return fused_rms_norm(x, config.hidden, config.norm_epsilon);
    return rms_norm(x, *weight, config.norm_epsilon);
  }
  Matrix norm(std::int64_t layer, Role role, const Matrix& x) const { return norm(x, of_layer(layer, role), of_layer(layer, role, true)); }

  Matrix embed(const std::vector<std::int32_t>& ids) const {
    const Matrix& table = *global(Role::Embedding);
    Matrix x(static_cast<std::int64_t>(ids.size()), table.cols);
    for (std::int64_t t = 0; t < x.rows; ++t) {
      for (std::int64_t i = 0; i < x.cols; ++i) x.at(t, i) = table.at(ids[static_cast<std::size_t>(t)], i);
    }
    if (const Matrix* projection = global(Role::EmbeddingProjection)) x = linear(x, *projection);
    if (const Matrix* positions = global(Role::Positions)) {
      for (std::int64_t t = 0; t < x.rows; ++t) {
        for (std::int64_t i = 0; i < x.cols; ++i) x.at(t, i) += positions->at(t + config.position_offset, i);
      }
    }
    return x;
  }

  // A linear with its bias.
  Matrix apply(std::int64_t layer, Role role, const Matrix& input, std::int64_t expert = -1) const {
    Matrix y = linear(input, *of_layer(layer, role, false, expert));
    if (const Matrix* bias = of_layer(layer, role, true, expert)) {
      for (std::int64_t t = 0; t < y.rows; ++t) {
        for (std::int64_t i = 0; i < y.cols; ++i) y.at(t, i) += bias->data[static_cast<std::size_t>(i)];
      }
    }
    if (on_output) on_output(layer, expert_name(rule_name(rules(), role), expert), y);
    return y;
  }

  // The residual stream around a block: x Q in sliced models.
  Matrix carried(std::int64_t layer, Role rotation, const Matrix& x) const {
    const Matrix* q = of_layer(layer, rotation);
    if (!q) return x;
    Matrix y(x.rows, q->cols);
    for (std::int64_t t = 0; t < x.rows; ++t) {
      for (std::int64_t i = 0; i < x.cols; ++i) {
        for (std::int64_t o = 0; o < q->cols; ++o) y.at(t, o) += x.at(t, i) * q->at(i, o);
      }
    }
    return y;
  }

  void position(std::int64_t layer, Role norm_role, Matrix& x, std::int64_t head_dim) const {
    if (const Matrix* weight = config.query_key_norm ? of_layer(layer, norm_role) : nullptr) {
      for (std::int64_t first = 0; first < x.cols; first += head_dim) {
        const Matrix head = rms_norm(columns(x, first, head_dim), *weight, config.norm_epsilon);
        for (std::int64_t t = 0; t < x.rows; ++t) {
          for (std::int64_t i = 0; i < head_dim; ++i) x.at(t, first + i) = head.at(t, i);
        }
      }
    }
    if (config.positions == Positions::Rotary) rotate(x, config, head_dim);
    if (norm_role != Role::QueryNorm || config.log_scaled_from == 0) return;
    for (std::int64_t t = config.log_scaled_from; t < x.rows; ++t) {
      const double factor = std::log(static_cast<double>(t + 1)) / std::log(static_cast<double>(config.log_scaled_from));
      for (std::int64_t i = 0; i < x.cols; ++i) x.at(t, i) *= factor;
    }
  }

  Matrix attend(std::int64_t layer, const Matrix& x) const {
    const LayerConfig& sizes = config.layers[static_cast<std::size_t>(layer)];
    const std::int64_t query = sizes.heads * sizes.head_dim, key = sizes.kv_heads * sizes.head_dim;
    Matrix q, k, v;
    if (of_layer(layer, Role::QueryKeyValue)) {
      const Matrix all = apply(layer, Role::QueryKeyValue, x);
      q = columns(all, 0, query), k = columns(all, query, key), v = columns(all, query + key, key);
    } else {
      q = apply(layer, Role::Query, x), k = apply(layer, Role::Key, x), v = apply(layer, Role::Value, x);
    }
    position(layer, Role::QueryNorm, q, sizes.head_dim);
    position(layer, Role::KeyNorm, k, sizes.head_dim);
    return apply(layer, Role::AttentionOutput, attention(q, k, v, sizes.head_dim, sizes.window));
  }

  Matrix mlp(std::int64_t layer, Role gate, Role up, Role down, const Matrix& x, std::int64_t expert = -1) const {
    if (!config.gated_mlp) {
      Matrix inner = apply(layer, up, x, expert);
      for (double& value : inner.data) value = activated(config.activation, value);
      return apply(layer, down, inner, expert);
    }
    Matrix inner = apply(layer, gate, x, expert);
    const Matrix other = apply(layer, up, x, expert);
    for (std::size_t i = 0; i < inner.data.size(); ++i) inner.data[i] = activated(config.activation, inner.data[i]) * other.data[i];
    return apply(layer, down, inner, expert);
  }

  Matrix experts(std::int64_t layer, const Matrix& x) const {
    const LayerConfig& sizes = config.layers[static_cast<std::size_t>(layer)];
    Matrix out(x.rows, x.cols);
    const Matrix scores = apply(layer, Role::Router, x);
    for (std::int64_t expert = 0; expert < sizes.experts; ++expert) {
      std::vector<std::pair<std::int64_t, double>> tokens;
      for (std::int64_t t = 0; t < x.rows; ++t) {
        for (const auto& [chosen, weight] : route(config, scores, t)) {
          if (chosen == expert) tokens.emplace_back(t, weight);
        }
      }
      if (tokens.empty()) continue;
      Matrix routed(static_cast<std::int64_t>(tokens.size()), x.cols);
      for (std::int64_t r = 0; r < routed.rows; ++r) {
        for (std::int64_t i = 0; i < x.cols; ++i) routed.at(r, i) = x.at(tokens[static_cast<std::size_t>(r)].first, i);
      }
      const Matrix y = mlp(layer, Role::ExpertGate, Role::ExpertUp, Role::ExpertDown, routed, expert);
      for (std::int64_t r = 0; r < y.rows; ++r) {
        const auto& [token, weight] = tokens[static_cast<std::size_t>(r)];
        for (std::int64_t i = 0; i < y.cols; ++i) out.at(token, i) += weight * y.at(r, i);
      }
    }
    if (sizes.shared_width == 0) return out;
    const Matrix shared = mlp(layer, Role::SharedGate, Role::SharedUp, Role::SharedDown, x), gate = apply(layer, Role::SharedRouter, x);
    for (std::int64_t t = 0; t < x.rows; ++t) {
      for (std::int64_t i = 0; i < x.cols; ++i) out.at(t, i) += shared.at(t, i) / (1 + std::exp(-gate.at(t, 0)));
    }
    return out;
  }

  Matrix run_layer(std::int64_t layer, const Matrix& x) const {
    const LayerConfig& sizes = config.layers[static_cast<std::size_t>(layer)];
    if (sizes.identity) return x;
    Matrix middle = sum(carried(layer, Role::AttentionRotation, x), attend(layer, config.norm_first ? norm(layer, Role::InputNorm, x) : x));
    if (!config.norm_first) middle = norm(layer, Role::InputNorm, middle);
    const Matrix y = config.norm_first ? norm(layer, Role::MlpNorm, middle) : middle;
    const Matrix block = sizes.experts > 0 ? experts(layer, y) : mlp(layer, Role::Gate, Role::Up, Role::Down, y);
    const Matrix out = sum(carried(layer, Role::MlpRotation, middle), block);
    return config.norm_first ? out : norm(layer, Role::MlpNorm, out);
  }

  Matrix logits(Matrix x) const {
    if (config.final_norm) x = norm(x, global(Role::FinalNorm), global(Role::FinalNorm, true));
    if (const Matrix* projection = global(Role::OutputProjection)) x = linear(x, *projection);
    Matrix z = linear(x, config.tied_head ? *global(Role::Embedding) : *global(Role::Head));
    if (const Matrix* bias = global(Role::Head, true)) {
      for (std::int64_t t = 0; t < z.rows; ++t) {
        for (std::int64_t i = 0; i < z.cols; ++i) z.at(t, i) += bias->data[static_cast<std::size_t>(i)];
      }
    }
    return z;
  }

  // Negative log-likelihood of ids[p + 1] for each p.
  std::vector<double> losses(const Matrix& x, const std::vector<std::int32_t>& ids) const {
    const Matrix z = logits(x);
    std::vector<double> result;
    for (std::int64_t p = 0; p + 1 < z.rows; ++p) {
      double largest = -HUGE_VAL, sum = 0;
      for (std::int64_t i = 0; i < z.cols; ++i) largest = std::max(largest, z.at(p, i));
      for (std::int64_t i = 0; i < z.cols; ++i) sum += std::exp(z.at(p, i) - largest);
      result.push_back(largest + std::log(sum) - z.at(p, ids[static_cast<std::size_t>(p + 1)]));
    }
    return result;
  }

  std::vector<double> losses(const std::vector<std::int32_t>& ids) const {
    Matrix x = embed(ids);
    for (std::int64_t layer = 0; layer < static_cast<std::int64_t>(config.layers.size()); ++layer) x = run_layer(layer, std::move(x));
    return losses(x, ids);
  }
};

}  // namespace miq::reference
