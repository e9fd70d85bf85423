// The column sweep, slow and obvious: fasterprune of sparsegpt.py and the recipe of mi.md, one row at a time
// on whole matrices, updating every later column after every column. Oracle for compress/sweep.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "miq/formats/dtype.h"

namespace miq::reference {

using Matrix = std::vector<std::vector<float>>;  // [rows][cols], columns in sweep order

struct Grid {
  float scale = 1, zero = 0, max_code = 15;
  float round(float w) const {
    const float code = std::min(std::max(std::nearbyint(w / scale) + zero, 0.0f), max_code);
    return scale * (code - zero);
  }
};

// The least of all ranges that 2^bits codes stand for in a row of this exponent and that is not below `range`, else the largest;
// counted through (spec/miq.md, "coded scales").
inline float coded_range_not_below(float range, int bits, int exponent) {
  float found = 0;
  for (int octave = 0; octave < 8; ++octave) {
    for (int step = 0; step < 1 << (bits - 3); ++step) {
      found = static_cast<float>(std::ldexp(1 + std::ldexp(step, 3 - bits), octave - 7 + exponent - 127));
      if (found >= range) return found;
    }
  }
  return found;
}

// The exponent of a row: that of one and a half times the widest range of its groups.
inline int exponent_of_row(const std::vector<float>& row, const std::vector<int>& group_of, int groups) {
  float widest = 0;
  for (int g = 0; g < groups; ++g) {
    float low = 0, high = 0;
    for (std::size_t j = 0; j < row.size(); ++j) {
      if (group_of[j] != g) continue;
      low = std::min(low, row[j]);
      high = std::max(high, row[j]);
    }
    widest = std::max(widest, high - low);
  }
  return widest > 0 ? std::min(std::max(std::ilogb(1.5f * widest) + 127, 16), 254) : 16;
}

// Range incl. 0 of `values`, the best of `clips` by errors weighted with `weights`.
inline Grid find_grid(const std::vector<float>& values, const std::vector<float>& weights, int bits, const std::vector<float>& clips,
                      bool half, int scale_bits = 0, int exponent = 0) {
  float low = 0, high = 0;
  for (float v : values) {
    low = std::min(low, v);
    high = std::max(high, v);
  }
  if (low == 0 && high == 0) {
    low = -1;
    high = 1;
  }
  Grid best;
  float best_error = INFINITY;
  for (float clip : clips) {
    Grid grid;
    grid.max_code = static_cast<float>((1 << bits) - 1);
    grid.scale = clip * (high - low) / grid.max_code;
    if (half) grid.scale = f16_to_f32(f32_to_f16(std::min(std::max(grid.scale, 6.103515625e-5f), 65504.0f)));
    if (scale_bits) grid.scale = coded_range_not_below(clip * (high - low), scale_bits, exponent) / grid.max_code;
    if (scale_bits) {
      grid.zero = std::nearbyint(-low / (high - low) * grid.max_code);
    } else {
      grid.zero = std::min(std::max(std::nearbyint(-(clip * low) / grid.scale), 0.0f), grid.max_code);
    }
    for (int side = 0; side < (bits == 2 && clips.size() > 1 ? 2 : 1); ++side, grid.zero = 3 - grid.zero) {
      float error = 0;
      for (std::size_t i = 0; i < values.size(); ++i) {
        const float difference = grid.round(values[i]) - values[i];
        error += weights[i] * (difference * difference);
      }
      if (error < best_error) {
        best_error = error;
        best = grid;
      }
    }
  }
  return best;
}

struct SweepSettings {
  std::vector<std::int64_t> blocks;  // firsts and the number of columns
  std::vector<int> group_of;         // [cols]; empty: no quantization
  std::vector<int> bits;             // [groups]
  std::vector<float> clips{1};
  bool dynamic = false, half = true;
  int scale_bits = 0;                // coded scales
  std::vector<std::int64_t> pruned;  // [blocks] weights to prune; empty: none
  bool original_rule = false;        // threshold at rank pruned[b] (from 0), all at or below
  int n = 0, m = 0;
  std::vector<std::vector<bool>> kept;  // [rows][cols] a mask chosen before; empty: none
  std::vector<float> row_weights;       // [rows]
  std::vector<bool> zero_columns;       // dead: zeroed once static grids were found; empty: none
};

struct SweepOutcome {
  Matrix values;
  std::vector<std::vector<bool>> kept;
  double loss = 0;
};

// `upper` [cols][cols].
inline SweepOutcome sweep(Matrix w, const Matrix& upper, const SweepSettings& s) {
  const std::size_t rows = w.size(), cols = upper.size();
  SweepOutcome out{w, std::vector<std::vector<bool>>(rows, std::vector<bool>(cols, true)), 0};
  if (!s.kept.empty()) out.kept = s.kept;
  const int groups = static_cast<int>(s.bits.size());
  std::vector<std::vector<Grid>> grids(rows, std::vector<Grid>(groups));
  std::vector<int> exponents(rows);
  for (std::size_t r = 0; s.scale_bits && r < rows; ++r) exponents[r] = exponent_of_row(w[r], s.group_of, groups);
  const auto make_grids = [&](int group) {
    double mean = 0, count = 0;
    for (std::size_t j = 0; j < cols; ++j) {
      if (s.group_of[j] != group) continue;
      mean += 1.0 / (static_cast<double>(upper[j][j]) * upper[j][j]);
      ++count;
    }
    mean /= count;
    for (std::size_t r = 0; r < rows; ++r) {
      std::vector<float> values, weights;
      for (std::size_t j = 0; j < cols; ++j) {
        if (s.group_of[j] != group) continue;
        values.push_back(out.kept[r][j] || !s.dynamic ? w[r][j] : 0.0f);
        weights.push_back(static_cast<float>(1.0 / (static_cast<double>(upper[j][j]) * upper[j][j]) / mean));
      }
      grids[r][group] = find_grid(values, weights, s.bits[group], s.clips, s.half, s.scale_bits, exponents[r]);
    }
  };
  const auto score = [&](std::size_t r, std::size_t j) { return w[r][j] * w[r][j] / (upper[j][j] * upper[j][j]) * s.row_weights[r]; };

  if (groups && !s.dynamic)
    for (int g = 0; g < groups; ++g) make_grids(g);
  if (!s.zero_columns.empty()) {
    for (std::size_t j = 0; j < cols; ++j)
      if (s.zero_columns[j])
        for (auto& row : w) row[j] = 0;
  }
  for (std::size_t b = 0; b + 1 < s.blocks.size(); ++b) {
    const auto first = static_cast<std::size_t>(s.blocks[b]), last = static_cast<std::size_t>(s.blocks[b + 1]);
    Matrix errors(rows, std::vector<float>(cols));
    if (!s.pruned.empty()) {
      std::vector<float> scores;
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t j = first; j < last; ++j) scores.push_back(score(r, j));
      std::sort(scores.begin(), scores.end());
      if (s.original_rule || s.pruned[b] > 0) {
        const float threshold = scores[s.original_rule ? s.pruned[b] : s.pruned[b] - 1];
        for (std::size_t r = 0; r < rows; ++r)
          for (std::size_t j = first; j < last; ++j) out.kept[r][j] = !(score(r, j) <= threshold);
      }
    }
    for (std::size_t j = first; j < last; ++j) {
      if (s.m && (j - first) % s.m == 0) {
        const std::size_t end = std::min(j + s.m, last);
        for (std::size_t r = 0; r < rows; ++r) {
          std::vector<std::size_t> order;
          for (std::size_t k = j; k < end; ++k) order.push_back(k);
          std::stable_sort(order.begin(), order.end(), [&](std::size_t x, std::size_t y) { return score(r, x) < score(r, y); });
          for (std::size_t i = 0; i < (end - j) * s.n / s.m; ++i) out.kept[r][order[i]] = false;
        }
      }
      if (groups && s.dynamic && (j == 0 || s.group_of[j] != s.group_of[j - 1])) make_grids(s.group_of[j]);
      for (std::size_t r = 0; r < rows; ++r) {
        float q = w[r][j];
        if (groups) q = grids[r][s.group_of[j]].round(q);
        if (!out.kept[r][j]) q = 0;
        out.values[r][j] = q;
        const float d = upper[j][j], error = (w[r][j] - q) / d;
        errors[r][j] = error;
        out.loss += static_cast<double>(w[r][j] - q) * (w[r][j] - q) / (static_cast<double>(d) * d) / 2;
        for (std::size_t k = j + 1; k < last; ++k) w[r][k] -= error * upper[j][k];
      }
    }
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t k = last; k < cols; ++k) {
        float sum = 0;
        for (std::size_t j = first; j < last; ++j) sum += errors[r][j] * upper[j][k];
        w[r][k] -= sum;
      }
    }
  }
  return out;
}

}  // namespace miq::reference
