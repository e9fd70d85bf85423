// Naive oracle of the predicted loss table: one weight at a time, in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "miq/compress/grouping.h"

namespace miq::reference {

inline std::vector<double> column_errors(const float* w, std::int64_t rows, const ChannelGroups& groups, const std::vector<double>& f,
                                         const std::vector<int>& levels) {
  const std::int64_t n = groups.channels();
  std::vector<double> errors(levels.size() * static_cast<std::size_t>(n), 0.0);
  for (std::size_t l = 0; l < levels.size(); ++l) {
    const double codes = std::pow(2, levels[l]) - 1;
    for (std::int64_t g = 0; g < groups.groups(); ++g) {
      for (std::int64_t r = 0; r < rows; ++r) {
        double low = 0, high = 0;
        for (std::int64_t k = groups.starts[g]; k < groups.starts[g + 1]; ++k) {
          low = std::min<double>(low, w[r * n + groups.order[k]]);
          high = std::max<double>(high, w[r * n + groups.order[k]]);
        }
        if (low == 0 && high == 0) low = -1, high = 1;
        const double full = (high - low) / codes, zero = std::nearbyint(-low / full);
        std::vector<double> best;
        double least = 0;
        for (int clip = 10; clip >= (levels[l] < 6 ? 5 : 10); --clip) {
          const double scale = full * clip / 10;
          std::vector<double> squares;
          double sum = 0;
          for (std::int64_t k = groups.starts[g]; k < groups.starts[g + 1]; ++k) {
            const double x = w[r * n + groups.order[k]];
            const double q = scale * (std::clamp(std::nearbyint(x / scale) + zero, 0.0, codes) - zero);
            squares.push_back((q - x) * (q - x));
            sum += squares.back();
          }
          if (best.empty() || sum < least) best = squares, least = sum;
        }
        for (std::int64_t k = groups.starts[g]; k < groups.starts[g + 1]; ++k)
          errors[l * static_cast<std::size_t>(n) + k] += f[r] * best[k - groups.starts[g]];
      }
    }
  }
  return errors;
}

}  // namespace miq::reference
