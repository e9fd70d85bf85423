// The Llama forward pass in naive double-precision loops: one token, one head, one element at a time.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <numbers>
#include <string>
#include <string_view>
#include <vector>

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

// Inverse frequency of pair i, as transformers' modeling_rope_utils.py states it.
inline double inverse_frequency(const Config& config, std::int64_t head_dim, std::int64_t i) {
  const double plain = 1 / std::pow(config.rope_theta, 2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
  const RopeScaling& s = config.rope_scaling;
  if (s.kind == RopeScaling::Kind::None) return plain;
  if (s.kind == RopeScaling::Kind::Linear) return plain / s.factor;
  const double original = static_cast<double>(s.original_max_positions);
  const double wavelength = 2 * std::numbers::pi / plain;
  if (wavelength < original / s.high_frequency_factor) return plain;
  if (wavelength > original / s.low_frequency_factor) return plain / s.factor;
  const double smooth = (original / wavelength - s.low_frequency_factor) / (s.high_frequency_factor - s.low_frequency_factor);
  return (1 - smooth) * plain / s.factor + smooth * plain;
}

// Rotates every head of x [tokens, heads * head_dim] in place. Angles are float32 products by definition.
inline void rotate(Matrix& x, const Config& config, std::int64_t head_dim) {
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t h = 0; h < x.cols / head_dim; ++h) {
      for (std::int64_t i = 0; i < head_dim / 2; ++i) {
        const float frequency = static_cast<float>(inverse_frequency(config, head_dim, i));
        const double angle = static_cast<float>(t) * frequency;
        double& low = x.at(t, h * head_dim + i);
        double& high = x.at(t, h * head_dim + i + head_dim / 2);
        const double a = low, b = high;
        low = a * std::cos(angle) - b * std::sin(angle);
        high = b * std::cos(angle) + a * std::sin(angle);
      }
    }
  }
}

// Causal softmax attention over rotated q, k. q [tokens, heads * head_dim]; k, v [tokens, kv_heads * head_dim].
inline Matrix attention(const Matrix& q, const Matrix& k, const Matrix& v, std::int64_t head_dim) {
  const std::int64_t heads = q.cols / head_dim, shared = heads / (k.cols / head_dim);
  Matrix out(q.rows, q.cols);
  for (std::int64_t h = 0; h < heads; ++h) {
    const std::int64_t from = h / shared * head_dim;
    for (std::int64_t t = 0; t < q.rows; ++t) {
      std::vector<double> weights(static_cast<std::size_t>(t + 1));
      double largest = -HUGE_VAL, sum = 0;
      for (std::int64_t s = 0; s <= t; ++s) {
        double score = 0;
        for (std::int64_t i = 0; i < head_dim; ++i) score += q.at(t, h * head_dim + i) * k.at(s, from + i);
        weights[static_cast<std::size_t>(s)] = score / std::sqrt(static_cast<double>(head_dim));
        largest = std::max(largest, weights[static_cast<std::size_t>(s)]);
      }
      for (double& w : weights) sum += w = std::exp(w - largest);
      for (std::int64_t s = 0; s <= t; ++s) {
        for (std::int64_t i = 0; i < head_dim; ++i) out.at(t, h * head_dim + i) += weights[static_cast<std::size_t>(s)] / sum * v.at(s, from + i);
      }
    }
  }
  return out;
}

struct Forward {
  Config config;
  std::map<std::string, Matrix> weights;  // by tensor name; vectors are [1, n]
  // May change the output of a linear; for finite differences.
  std::function<void(std::int64_t layer, std::string_view rule_name, Matrix& output)> on_output;

  const Matrix& layer_weight(std::int64_t layer, const std::string& name) const {
    return weights.at("model.layers." + std::to_string(layer) + "." + name);
  }

  Matrix embed(const std::vector<std::int32_t>& ids) const {
    const Matrix& table = weights.at("model.embed_tokens.weight");
    Matrix x(static_cast<std::int64_t>(ids.size()), table.cols);
    for (std::int64_t t = 0; t < x.rows; ++t) {
      for (std::int64_t i = 0; i < x.cols; ++i) x.at(t, i) = table.at(ids[static_cast<std::size_t>(t)], i);
    }
    return x;
  }

  Matrix run_layer(std::int64_t layer, Matrix x) const {
    const LayerConfig& sizes = config.layers[static_cast<std::size_t>(layer)];
    const auto apply = [&](const std::string& name, const Matrix& input) {
      Matrix y = linear(input, layer_weight(layer, name));
      if (on_output) on_output(layer, name, y);
      return y;
    };
    const Matrix n1 = rms_norm(x, layer_weight(layer, "input_layernorm.weight"), config.norm_epsilon);
    Matrix q = apply("self_attn.q_proj.weight", n1), k = apply("self_attn.k_proj.weight", n1);
    const Matrix v = apply("self_attn.v_proj.weight", n1);
    rotate(q, config, sizes.head_dim);
    rotate(k, config, sizes.head_dim);
    const Matrix a = apply("self_attn.o_proj.weight", attention(q, k, v, sizes.head_dim));
    for (std::size_t i = 0; i < x.data.size(); ++i) x.data[i] += a.data[i];
    const Matrix n2 = rms_norm(x, layer_weight(layer, "post_attention_layernorm.weight"), config.norm_epsilon);
    Matrix gate = apply("mlp.gate_proj.weight", n2);
    const Matrix up = apply("mlp.up_proj.weight", n2);
    for (std::size_t i = 0; i < gate.data.size(); ++i) gate.data[i] = gate.data[i] / (1 + std::exp(-gate.data[i])) * up.data[i];
    const Matrix m = apply("mlp.down_proj.weight", gate);
    for (std::size_t i = 0; i < x.data.size(); ++i) x.data[i] += m.data[i];
    return x;
  }

  Matrix logits(const Matrix& x) const {
    const Matrix& head = weights.at(config.tied_head ? "model.embed_tokens.weight" : "lm_head.weight");
    return linear(rms_norm(x, weights.at("model.norm.weight"), config.norm_epsilon), head);
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
