// Coordinate descent on one row's error, slow and obvious, in double. Oracle for compress/refine.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace miq::reference {

// q[j] = scale[group[j]] * (code[j] - zero[group[j]]) where kept, else 0. Groups are runs of columns.
struct RefineRow {
  std::vector<double> target;
  std::vector<int> code, group;
  std::vector<bool> kept;
  std::vector<double> scale, zero;
  std::vector<int> max_code;

  double value(std::size_t j) const { return kept[j] ? scale[group[j]] * (code[j] - zero[group[j]]) : 0; }

  double error(const std::vector<std::vector<double>>& h) const {
    double sum = 0;
    for (std::size_t j = 0; j < target.size(); ++j)
      for (std::size_t k = 0; k < target.size(); ++k) sum += (target[j] - value(j)) * h[j][k] * (target[k] - value(k));
    return sum;
  }

  // Sum over k of (w - q)_k h_jk.
  double slope(const std::vector<std::vector<double>>& h, std::size_t j) const {
    double sum = 0;
    for (std::size_t k = 0; k < target.size(); ++k) sum += (target[k] - value(k)) * h[j][k];
    return sum;
  }

  void refit_scale(const std::vector<std::vector<double>>& h, int g) {
    double linear = 0, square = 0;
    for (std::size_t j = 0; j < target.size(); ++j) {
      if (group[j] != g || !kept[j]) continue;
      linear += (code[j] - zero[g]) * slope(h, j);
      for (std::size_t k = 0; k < target.size(); ++k) {
        if (group[k] == g && kept[k]) square += (code[j] - zero[g]) * h[j][k] * (code[k] - zero[g]);
      }
    }
    if (square > 0) scale[g] = std::clamp(scale[g] + linear / square, scale[g] / 2, scale[g] * 2);
  }

  // Whether anything moved.
  bool move(const std::vector<std::vector<double>>& h, std::size_t j) {
    if (!kept[j]) return false;
    const int g = group[j], before = code[j];
    const double best = (value(j) + slope(h, j) / h[j][j]) / scale[g] + zero[g];
    code[j] = static_cast<int>(std::clamp(std::nearbyint(best), 0.0, static_cast<double>(max_code[g])));
    return code[j] != before;
  }

  void refine(const std::vector<std::vector<double>>& h, int passes, int rounds, bool scales) {
    const int groups = static_cast<int>(scale.size());
    for (int pass = 0; pass < passes; ++pass) {
      for (int g = 0; g < groups; ++g) {
        for (int round = 0; round < rounds; ++round) {
          if (scales) refit_scale(h, g);
          bool moved = false;
          for (std::size_t j = 0; j < target.size(); ++j)
            if (group[j] == g) moved |= move(h, j);
          if (!moved) break;
        }
      }
    }
  }
};

}  // namespace miq::reference
