// The forward pass of models sliced by SliceGPT, Llama and OPT, in naive double-precision loops: fused norms
// whose mean is over the unsliced width, rotations around attention and MLP
// (slicegpt/adapters/llama_adapter.py, opt_adapter.py, modules.py).
#pragma once

#include "tests/reference/forward_reference.h"

namespace miq::reference {

// x / sqrt(sum(x^2) / width + 1e-5)
inline Matrix fused_norm(const Matrix& x, std::int64_t width) {
  Matrix y(x.rows, x.cols);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    double squares = 0;
    for (std::int64_t i = 0; i < x.cols; ++i) squares += x.at(t, i) * x.at(t, i);
    for (std::int64_t i = 0; i < x.cols; ++i) y.at(t, i) = x.at(t, i) / std::sqrt(squares / static_cast<double>(width) + 1e-5);
  }
  return y;
}

// x [tokens, in] times q [in, out]
inline Matrix times(const Matrix& x, const Matrix& q) {
  Matrix y(x.rows, q.cols);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t o = 0; o < q.cols; ++o) {
      for (std::int64_t i = 0; i < x.cols; ++i) y.at(t, o) += x.at(t, i) * q.at(i, o);
    }
  }
  return y;
}

inline void add(Matrix& x, const Matrix& y) {
  for (std::size_t i = 0; i < x.data.size(); ++i) x.data[i] += y.data[i];
}

struct SlicedForward {
  Config config;
  std::map<std::string, Matrix> weights;

  bool opt() const { return config.architecture == "opt"; }
  std::string layer_name(std::int64_t layer, const std::string& name) const {
    return (opt() ? "model.decoder.layers." : "model.layers.") + std::to_string(layer) + "." + name;
  }
  // W x + b; b where there is one.
  Matrix apply(const std::string& name, const Matrix& x) const {
    Matrix y = linear(x, weights.at(name + ".weight"));
    const auto bias = weights.find(name + ".bias");
    if (bias == weights.end()) return y;
    for (std::int64_t t = 0; t < y.rows; ++t) {
      for (std::int64_t i = 0; i < y.cols; ++i) y.at(t, i) += bias->second.data[static_cast<std::size_t>(i)];
    }
    return y;
  }

  Matrix embed(const std::vector<std::int32_t>& ids) const {
    const Matrix& table = weights.at(opt() ? "model.decoder.embed_tokens.weight" : "model.embed_tokens.weight");
    Matrix x(static_cast<std::int64_t>(ids.size()), table.cols);
    for (std::int64_t t = 0; t < x.rows; ++t) {
      for (std::int64_t i = 0; i < x.cols; ++i) {
        x.at(t, i) =
            table.at(ids[static_cast<std::size_t>(t)], i) + (opt() ? weights.at("model.decoder.embed_positions.weight").at(t + 2, i) : 0);
      }
    }
    return x;
  }

  Matrix run_layer(std::int64_t layer, const Matrix& x) const {
    const LayerConfig& sizes = config.layers[static_cast<std::size_t>(layer)];
    const auto in_layer = [&](const std::string& name, const Matrix& input) { return apply(layer_name(layer, name), input); };
    const Matrix n1 = fused_norm(x, config.hidden);
    Matrix q = in_layer("self_attn.q_proj", n1), k = in_layer("self_attn.k_proj", n1);
    const Matrix v = in_layer("self_attn.v_proj", n1);
    if (!opt()) {
      rotate(q, config, sizes.head_dim);
      rotate(k, config, sizes.head_dim);
    }
    Matrix h = times(x, weights.at(layer_name(layer, "attn_shortcut_Q")));
    add(h, in_layer(opt() ? "self_attn.out_proj" : "self_attn.o_proj", attention(q, k, v, sizes.head_dim)));
    const Matrix n2 = fused_norm(h, config.hidden);
    Matrix m = in_layer(opt() ? "fc1" : "mlp.up_proj", n2);
    if (opt()) {
      for (double& value : m.data) value = std::max(value, 0.0);
    } else {
      const Matrix gate = in_layer("mlp.gate_proj", n2);
      for (std::size_t i = 0; i < m.data.size(); ++i) m.data[i] *= gate.data[i] / (1 + std::exp(-gate.data[i]));
    }
    Matrix y = times(h, weights.at(layer_name(layer, "mlp_shortcut_Q")));
    add(y, in_layer(opt() ? "fc2" : "mlp.down_proj", m));
    return y;
  }

  Matrix logits(const std::vector<std::int32_t>& ids) const {
    Matrix x = embed(ids);
    for (std::int64_t layer = 0; layer < static_cast<std::int64_t>(config.layers.size()); ++layer) x = run_layer(layer, x);
    return apply("lm_head", fused_norm(x, config.hidden));
  }
};

}  // namespace miq::reference
