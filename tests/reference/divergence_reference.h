// Divergence of two models from its definition: every distribution written out, every figure by its textbook formula.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "tests/reference/forward_reference.h"

namespace miq::reference {

inline std::vector<double> distribution(const Matrix& logits, std::int64_t row) {
  std::vector<double> p;
  for (std::int64_t i = 0; i < logits.cols; ++i) p.push_back(std::exp(logits.at(row, i)));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= sum;
  return p;
}

inline double divergence(const std::vector<double>& p, const std::vector<double>& q) {
  double sum = 0;
  for (std::size_t i = 0; i < p.size(); ++i) sum += p[i] * std::log(p[i] / q[i]);
  return sum;
}

struct Divergences {
  std::vector<double> tokens, loss_p, loss_q;
  double same_top = 0;

  double mean(const std::vector<double>& values) const { return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size()); }
  double product_mean(const std::vector<double>& a, const std::vector<double>& b) const {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0) / static_cast<double>(a.size());
  }
  double loss_correlation() const {
    const double covariance = product_mean(loss_p, loss_q) - mean(loss_p) * mean(loss_q);
    const double p = product_mean(loss_p, loss_p) - mean(loss_p) * mean(loss_p), q = product_mean(loss_q, loss_q) - mean(loss_q) * mean(loss_q);
    return covariance / std::sqrt(p) / std::sqrt(q);
  }
};

inline Matrix all_logits(const Forward& model, const std::vector<std::int32_t>& ids) {
  Matrix x = model.embed(ids);
  for (std::int64_t layer = 0; layer < static_cast<std::int64_t>(model.config.layers.size()); ++layer) x = model.run_layer(layer, x);
  return model.logits(x);
}

// Whole windows of `seqlen` tokens, positions first … seqlen - 2 of each.
inline Divergences divergences(const Forward& reference, const Forward& other, const std::vector<std::int32_t>& ids, std::size_t seqlen,
                               std::size_t first) {
  Divergences result;
  for (std::size_t begin = 0; begin + seqlen <= ids.size(); begin += seqlen) {
    const std::vector<std::int32_t> window(ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.begin() + static_cast<std::ptrdiff_t>(begin + seqlen));
    const Matrix a = all_logits(reference, window), b = all_logits(other, window);
    for (std::size_t t = first; t + 1 < seqlen; ++t) {
      const std::vector<double> p = distribution(a, static_cast<std::int64_t>(t)), q = distribution(b, static_cast<std::int64_t>(t));
      const auto target = static_cast<std::size_t>(window[t + 1]);
      result.tokens.push_back(divergence(p, q));
      result.loss_p.push_back(-std::log(p[target]));
      result.loss_q.push_back(-std::log(q[target]));
      if (std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin()) ++result.same_top;
    }
  }
  result.same_top /= static_cast<double>(result.tokens.size());
  return result;
}

}  // namespace miq::reference
