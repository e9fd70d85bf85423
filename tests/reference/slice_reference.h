// SliceGPT in naive double-precision loops, in the order of the original (slicegpt/rotate.py, rotate_and_slice_sequential): fuse, then
// block by block rotate and slice the inputs, run the block in its own narrow coordinates, find the axes of what comes out, rotate and
// slice the outputs. Embeddings are centred only for layer norms. Llama and OPT.
#pragma once

#include "tests/reference/sliced_reference.h"

namespace miq::reference {

inline Matrix transposed(const Matrix& x) {
  Matrix y(x.cols, x.rows);
  for (std::int64_t r = 0; r < x.rows; ++r) {
    for (std::int64_t c = 0; c < x.cols; ++c) y.at(c, r) = x.at(r, c);
  }
  return y;
}

// Eigenvectors of a symmetric matrix as columns, largest eigenvalue first: cyclic Jacobi rotations.
inline Matrix eigenvectors(Matrix a) {
  const std::int64_t n = a.rows;
  Matrix v(n, n);
  for (std::int64_t i = 0; i < n; ++i) v.at(i, i) = 1;
  for (int sweep = 0; sweep < 60; ++sweep) {
    for (std::int64_t p = 0; p < n; ++p) {
      for (std::int64_t q = p + 1; q < n; ++q) {
        if (std::abs(a.at(p, q)) < 1e-300) continue;
        const double theta = (a.at(q, q) - a.at(p, p)) / (2 * a.at(p, q));
        const double t = (theta >= 0 ? 1 : -1) / (std::abs(theta) + std::sqrt(theta * theta + 1)), c = 1 / std::sqrt(t * t + 1), s = t * c;
        for (std::int64_t i = 0; i < n; ++i) {
          const double x = a.at(i, p), y = a.at(i, q);
          a.at(i, p) = c * x - s * y, a.at(i, q) = s * x + c * y;
        }
        for (std::int64_t i = 0; i < n; ++i) {
          const double x = a.at(p, i), y = a.at(q, i);
          a.at(p, i) = c * x - s * y, a.at(q, i) = s * x + c * y;
        }
        for (std::int64_t i = 0; i < n; ++i) {
          const double x = v.at(i, p), y = v.at(i, q);
          v.at(i, p) = c * x - s * y, v.at(i, q) = s * x + c * y;
        }
      }
    }
  }
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) order[static_cast<std::size_t>(i)] = i;
  std::sort(order.begin(), order.end(), [&](std::int64_t x, std::int64_t y) { return a.at(x, x) > a.at(y, y); });
  Matrix sorted(n, n);
  for (std::int64_t c = 0; c < n; ++c) {
    for (std::int64_t r = 0; r < n; ++r) sorted.at(r, c) = v.at(r, order[static_cast<std::size_t>(c)]);
  }
  return sorted;
}

struct SliceGpt {
  Config config;  // of the dense model; afterwards of the sliced one
  std::map<std::string, Matrix> weights;
  std::int64_t width = 0;
  double damping = 0.01;

  bool opt() const { return config.architecture == "opt"; }
  std::string in_layer(std::size_t layer, const std::string& name) const {
    return (opt() ? "model.decoder.layers." : "model.layers.") + std::to_string(layer) + "." + name;
  }

  void centre_rows(Matrix& m) const {
    for (std::int64_t r = 0; r < m.rows; ++r) {
      double mean = 0;
      for (std::int64_t c = 0; c < m.cols; ++c) mean += m.at(r, c) / static_cast<double>(m.cols);
      for (std::int64_t c = 0; c < m.cols; ++c) m.at(r, c) -= mean;
    }
  }

  // The norm's weight and bias go into a linear behind it.
  void fuse(const std::string& norm, const std::string& linear) {
    Matrix& w = weights.at(linear + ".weight");
    const Matrix gamma = weights.at(norm + ".weight");
    if (opt()) {
      Matrix& bias = weights.try_emplace(linear + ".bias", 1, w.rows).first->second;
      const Matrix& beta = weights.at(norm + ".bias");
      for (std::int64_t r = 0; r < w.rows; ++r) {
        for (std::int64_t c = 0; c < w.cols; ++c) bias.at(0, r) += w.at(r, c) * beta.at(0, c);
      }
    }
    for (std::int64_t r = 0; r < w.rows; ++r) {
      for (std::int64_t c = 0; c < w.cols; ++c) w.at(r, c) *= gamma.at(0, c);
    }
  }

  void fuse_all() {
    const std::string stem = opt() ? "model.decoder." : "model.";
    if (config.tied_head) weights["lm_head.weight"] = weights.at(stem + "embed_tokens.weight");
    if (opt()) centre_rows(weights.at(stem + "embed_tokens.weight")), centre_rows(weights.at(stem + "embed_positions.weight"));
    for (std::size_t l = 0; l < config.layers.size(); ++l) {
      for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
        fuse(in_layer(l, opt() ? "self_attn_layer_norm" : "input_layernorm"), in_layer(l, std::string("self_attn.") + name));
      }
      if (opt()) {
        fuse(in_layer(l, "final_layer_norm"), in_layer(l, "fc1"));
        for (const char* name : {"self_attn.out_proj", "fc2"}) {
          Matrix& w = weights.at(in_layer(l, std::string(name) + ".weight"));
          w = transposed(w);
          centre_rows(w);
          w = transposed(w);
          centre_rows(weights.at(in_layer(l, std::string(name) + ".bias")));
        }
      } else {
        for (const char* name : {"mlp.gate_proj", "mlp.up_proj"}) fuse(in_layer(l, "post_attention_layernorm"), in_layer(l, name));
      }
    }
    fuse(opt() ? "model.decoder.final_layer_norm" : "model.norm", "lm_head");
  }

  // The first `count` principal axes, [hidden, count].
  Matrix axes(const std::vector<Matrix>& states, std::int64_t count) const {
    Matrix h(config.hidden, config.hidden);
    for (const Matrix& x : states) {
      for (std::int64_t t = 0; t < x.rows; ++t) {
        for (std::int64_t i = 0; i < x.cols; ++i) {
          for (std::int64_t j = 0; j < x.cols; ++j) h.at(i, j) += x.at(t, i) * x.at(t, j);
        }
      }
    }
    double mean = 0;
    for (std::int64_t i = 0; i < h.rows; ++i) mean += h.at(i, i) / static_cast<double>(h.rows);
    for (std::int64_t i = 0; i < h.rows; ++i) h.at(i, i) += damping * mean;
    const Matrix q = eigenvectors(h);
    Matrix kept(q.rows, count);
    for (std::int64_t r = 0; r < q.rows; ++r) {
      for (std::int64_t c = 0; c < count; ++c) kept.at(r, c) = q.at(r, c);
    }
    return kept;
  }

  void read_rotated(const std::string& name, const Matrix& q) { weights.at(name + ".weight") = times(weights.at(name + ".weight"), q); }
  void write_rotated(const std::string& name, const Matrix& q) {
    weights.at(name + ".weight") = times(transposed(q), weights.at(name + ".weight"));
    if (const auto bias = weights.find(name + ".bias"); bias != weights.end()) bias->second = times(bias->second, q);
  }

  Matrix attention_half(const SlicedForward& pass, std::size_t l, const Matrix& x) const {
    const LayerConfig& sizes = config.layers[l];
    const Matrix n = fused_norm(x, config.hidden);
    Matrix q = pass.apply(in_layer(l, "self_attn.q_proj"), n), k = pass.apply(in_layer(l, "self_attn.k_proj"), n);
    const Matrix v = pass.apply(in_layer(l, "self_attn.v_proj"), n);
    if (!opt()) rotate(q, config, sizes.head_dim), rotate(k, config, sizes.head_dim);
    Matrix h = times(x, pass.weights.at(in_layer(l, "attn_shortcut_Q")));
    add(h, pass.apply(in_layer(l, opt() ? "self_attn.out_proj" : "self_attn.o_proj"), attention(q, k, v, sizes.head_dim)));
    return h;
  }

  void run(const std::vector<std::vector<std::int32_t>>& windows) {
    const std::string stem = opt() ? "model.decoder." : "model.";
    fuse_all();
    std::vector<Matrix> states;
    for (const auto& ids : windows) states.push_back(SlicedForward{config, weights}.embed(ids));
    Matrix q = axes(states, width);
    for (Matrix& x : states) x = times(x, q);
    for (const char* table : {"embed_tokens.weight", "embed_positions.weight"}) {
      if (const auto found = weights.find(stem + table); found != weights.end()) found->second = times(found->second, q);
    }
    const std::vector<std::string> inputs =
        opt() ? std::vector<std::string>{"fc1"} : std::vector<std::string>{"mlp.gate_proj", "mlp.up_proj"};
    for (std::size_t l = 0; l < config.layers.size(); ++l) {
      LayerConfig& sizes = config.layers[l];
      const std::int64_t after = l + 1 < config.layers.size() ? width : config.hidden;
      sizes.input = sizes.middle = width;
      sizes.output = after;
      for (const char* name : {"q_proj", "k_proj", "v_proj"}) read_rotated(in_layer(l, std::string("self_attn.") + name), q);
      weights[in_layer(l, "attn_shortcut_Q")] = transposed(q);
      std::vector<Matrix> middle;
      for (const Matrix& x : states) middle.push_back(attention_half({config, weights}, l, x));
      q = axes(middle, width);
      weights[in_layer(l, "attn_shortcut_Q")] = times(weights.at(in_layer(l, "attn_shortcut_Q")), q);
      write_rotated(in_layer(l, opt() ? "self_attn.out_proj" : "self_attn.o_proj"), q);
      for (const std::string& name : inputs) read_rotated(in_layer(l, name), q);
      weights[in_layer(l, "mlp_shortcut_Q")] = transposed(q);
      for (Matrix& x : states) x = SlicedForward{config, weights}.run_layer(static_cast<std::int64_t>(l), x);
      q = axes(states, after);
      weights[in_layer(l, "mlp_shortcut_Q")] = times(weights.at(in_layer(l, "mlp_shortcut_Q")), q);
      write_rotated(in_layer(l, opt() ? "fc2" : "mlp.down_proj"), q);
      for (Matrix& x : states) x = times(x, q);
    }
    read_rotated("lm_head", q);
  }
};

}  // namespace miq::reference
