// Naive oracles for bit allocation: every choice is tried.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace miq::reference {

// The least sum of losses among all choices of one level an item whose cost does not exceed the budget.
inline double best_loss_by_enumeration(std::span<const double> loss, std::span<const double> kept, std::span<const int> levels,
                                       double budget) {
  const std::size_t items = kept.size();
  std::vector<std::size_t> choice(items, 0);
  double best = std::numeric_limits<double>::infinity();
  for (;;) {
    double cost = 0, total = 0;
    for (std::size_t i = 0; i < items; ++i) cost += kept[i] * levels[choice[i]], total += loss[i * levels.size() + choice[i]];
    if (cost <= budget && total < best) best = total;
    std::size_t i = 0;
    while (i < items && ++choice[i] == levels.size()) choice[i++] = 0;
    if (i == items) return best;
  }
}

// The linear relaxation (fractions of neighbouring hull points allowed) by bisection on the price of a bit: a lower bound of the above.
inline double relaxed_loss(std::span<const double> loss, std::span<const double> kept, std::span<const int> levels, double budget) {
  double best = -std::numeric_limits<double>::infinity(), low = 0, high = 1e12;
  for (int round = 0; round < 300; ++round) {
    const double price = (low + high) / 2;
    double bound = -price * budget, cost = 0;
    for (std::size_t i = 0; i < kept.size(); ++i) {
      double least = std::numeric_limits<double>::infinity(), its_cost = 0;
      for (std::size_t l = 0; l < levels.size(); ++l) {
        const double value = loss[i * levels.size() + l] + price * kept[i] * levels[l];
        if (value < least) least = value, its_cost = kept[i] * levels[l];
      }
      bound += least;
      cost += its_cost;
    }
    if (bound > best) best = bound;  // Lagrangian duality: every price gives a lower bound
    (cost > budget ? low : high) = price;
  }
  return best;
}

}  // namespace miq::reference
