// Two kinds of allocation. By score: a level for each item as a monotone function of its score, its offset found by
// bisection. By predicted loss: the knapsack relaxed to the items' lower convex hulls, whose increments are taken in order of
// falling slope. Both end in the same fill, which makes the budget exact: single steps are taken while any fits, so that what is
// left over is less than the smallest step that remains.
#include "miq/compress/allocate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "miq/base/error.h"

namespace miq {
namespace {

using Choice = std::vector<std::uint8_t>;  // an index into the levels for each item

void check_levels(std::span<const int> levels) {
  bool good = !levels.empty() && levels.size() <= 16;
  for (std::size_t i = 0; good && i < levels.size(); ++i)
    good = levels[i] >= 1 && levels[i] <= 16 && (i == 0 || levels[i] > levels[i - 1]);
  if (!good) throw UsageError("bit levels must be rising whole numbers between 1 and 16");
}

void check_target(double target, std::span<const int> levels) {
  if (target >= levels.front() && target <= levels.back()) return;
  throw UsageError("a target of " + std::to_string(target) + " bits on average cannot be reached with levels from " +
                   std::to_string(levels.front()) + " to " + std::to_string(levels.back()));
}

void check_kept(std::span<const double> kept, std::size_t items) {
  if (kept.size() != items)
    throw Error("bit allocation got " + std::to_string(items) + " items but " + std::to_string(kept.size()) + " counts of kept weights");
  for (std::size_t i = 0; i < items; ++i)
    if (!(kept[i] >= 0) || !std::isfinite(kept[i]))
      throw Error("bit allocation: the count of kept weights of item " + std::to_string(i) + " is not a number >= 0");
}

void check_finite(std::span<const double> values, const char* what, std::size_t per_item) {
  for (std::size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i]))
      throw Error(std::string("bit allocation: the ") + what + " of item " + std::to_string(i / per_item) +
                  " is not finite; look for NaN or infinity in the weights or the calibration statistics");
}

double spent(const Choice& choice, std::span<const double> kept, std::span<const int> levels) {
  double total = 0;
  for (std::size_t i = 0; i < choice.size(); ++i) total += kept[i] * levels[choice[i]];
  return total;
}

// Item numbers by falling score, ties by number.
std::vector<std::uint32_t> by_falling(std::span<const double> score) {
  std::vector<std::uint32_t> order(score.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return score[a] > score[b]; });
  return order;
}

// Raises items by one level in the given order, again and again, while any step fits into `left`.
void fill(Choice& choice, std::span<const std::uint32_t> order, std::span<const double> kept, double left, std::span<const int> levels) {
  for (bool raised = true; raised;) {
    raised = false;
    for (std::uint32_t item : order) {
      if (choice[item] + 1u >= levels.size() || kept[item] <= 0) continue;
      const double step = kept[item] * (levels[choice[item] + 1] - levels[choice[item]]);
      if (step > left) continue;
      left -= step;
      ++choice[item];
      raised = true;
    }
  }
}

// With a budget that was overdrawn (rounded class shares): lowers the least important raised item until it is not.
void withdraw(Choice& choice, std::span<const std::uint32_t> order, std::span<const double> kept, double over,
              std::span<const int> levels) {
  for (auto item = order.rbegin(); item != order.rend() && over > 0; ++item) {
    while (over > 0 && choice[*item] > 0 && kept[*item] > 0) {
      over -= kept[*item] * (levels[choice[*item]] - levels[choice[*item] - 1]);
      --choice[*item];
    }
  }
}

std::vector<std::uint8_t> to_bits(const Choice& choice, std::span<const int> levels) {
  std::vector<std::uint8_t> bits(choice.size());
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<std::uint8_t>(levels[choice[i]]);
  return bits;
}

std::uint8_t nearest_level(double value, std::span<const int> levels) {
  std::uint8_t best = 0;
  for (std::uint8_t l = 1; l < levels.size(); ++l)
    if (std::abs(value - levels[l]) < std::abs(value - levels[best])) best = l;
  return best;
}

// Scores minus their mean, over their standard deviation, both weighted by `kept`.
std::vector<double> standardised(std::span<const double> score, std::span<const double> kept) {
  double total = 0, mean = 0, variance = 0;
  for (std::size_t i = 0; i < score.size(); ++i) total += kept[i], mean += kept[i] * score[i];
  mean = total > 0 ? mean / total : 0;
  for (std::size_t i = 0; i < score.size(); ++i) variance += kept[i] * (score[i] - mean) * (score[i] - mean);
  const double deviation = total > 0 ? std::sqrt(variance / total) : 0;
  std::vector<double> z(score.size());
  for (std::size_t i = 0; i < z.size(); ++i) z[i] = deviation > 0 ? (score[i] - mean) / deviation : 0;
  return z;
}

Choice quantile_classes(std::span<const double> score, std::span<const double> kept, std::span<const double> share) {
  auto order = by_falling(score);
  std::reverse(order.begin(), order.end());
  const double total = std::accumulate(kept.begin(), kept.end(), 0.0);
  Choice choice(score.size(), 0);
  double below = 0, edge = share[0] * total;
  std::uint8_t level = 0;
  for (std::uint32_t item : order) {
    while (level + 1u < share.size() && below + kept[item] / 2 > edge) edge += share[++level] * total;
    choice[item] = level;
    below += kept[item];
  }
  return choice;
}

// Shares p_b ~ exp(-t b) whose mean is the target: the ones of largest entropy.
std::vector<double> shares_with_mean(double target, std::span<const int> levels) {
  double low = -64, high = 64;
  std::vector<double> share(levels.size());
  for (int round = 0; round < 200; ++round) {
    const double t = (low + high) / 2;
    const double top = std::max(-t * levels.front(), -t * levels.back());
    double total = 0, mean = 0;
    for (std::size_t l = 0; l < levels.size(); ++l) total += share[l] = std::exp(-t * levels[l] - top);
    for (std::size_t l = 0; l < levels.size(); ++l) mean += (share[l] /= total) * levels[l];
    (mean > target ? low : high) = t;
  }
  return share;
}

struct Increment {
  double slope, cost;
  std::uint32_t item;
  std::uint8_t from, to;
};

// The increments of item `item`'s lower convex hull, from its lowest level on, slopes falling; none whose loss does not fall.
void add_hull(std::vector<Increment>& increments, std::uint32_t item, std::span<const double> loss, double kept,
              std::span<const int> levels) {
  for (std::uint8_t from = 0; from + 1u < levels.size();) {
    double best = 0;
    std::uint8_t to = from;
    for (std::uint8_t l = from + 1; l < levels.size(); ++l) {
      const double slope = (loss[from] - loss[l]) / (kept * (levels[l] - levels[from]));
      if (slope > best) best = slope, to = l;
    }
    if (to == from) return;
    increments.push_back({best, kept * (levels[to] - levels[from]), item, from, to});
    from = to;
  }
}

}  // namespace

std::vector<std::uint8_t> allocate_budget(std::span<const double> score, std::span<const double> kept, double target, double slope,
                                          std::span<const int> levels) {
  check_levels(levels);
  check_target(target, levels);
  check_kept(kept, score.size());
  check_finite(score, "score", 1);
  const auto z = standardised(score, kept);
  const double budget = target * std::accumulate(kept.begin(), kept.end(), 0.0);
  Choice choice(score.size(), 0);
  auto set = [&](double offset) {
    for (std::size_t i = 0; i < z.size(); ++i) choice[i] = nearest_level(offset + slope * z[i], levels);
  };
  double reach = 0;
  for (double value : z) reach = std::max(reach, std::abs(slope * value));
  double low = levels.front() - reach - 1, high = levels.back() + reach + 1;
  for (int round = 0; round < 100; ++round) {
    const double middle = (low + high) / 2;
    set(middle);
    (spent(choice, kept, levels) > budget ? high : low) = middle;
  }
  set(low);
  fill(choice, by_falling(score), kept, budget - spent(choice, kept, levels), levels);
  return to_bits(choice, levels);
}

std::vector<std::uint8_t> allocate_quantile(std::span<const double> score, std::span<const double> kept, std::span<const int> levels) {
  check_levels(levels);
  check_kept(kept, score.size());
  check_finite(score, "score", 1);
  const std::vector<double> share(levels.size(), 1.0 / static_cast<double>(levels.size()));
  return to_bits(quantile_classes(score, kept, share), levels);
}

std::vector<std::uint8_t> allocate_quantile(std::span<const double> score, std::span<const double> kept, double target,
                                            std::span<const int> levels) {
  check_levels(levels);
  check_target(target, levels);
  check_kept(kept, score.size());
  check_finite(score, "score", 1);
  Choice choice = quantile_classes(score, kept, shares_with_mean(target, levels));
  const auto order = by_falling(score);
  const double budget = target * std::accumulate(kept.begin(), kept.end(), 0.0);
  withdraw(choice, order, kept, spent(choice, kept, levels) - budget, levels);
  fill(choice, order, kept, budget - spent(choice, kept, levels), levels);
  return to_bits(choice, levels);
}

std::vector<std::uint8_t> allocate_redundancy(std::span<const double> information_within, std::span<const std::int64_t> channels,
                                              std::span<const double> kept, double target, std::span<const int> levels) {
  if (channels.size() != information_within.size()) throw Error("allocate_redundancy: one channel count per group is needed");
  std::vector<double> score(information_within.size());
  double highest = -std::numeric_limits<double>::infinity();
  for (std::size_t g = 0; g < score.size(); ++g) {
    score[g] = -std::log(std::max(0.0, information_within[g]) + 1e-6);
    if (channels[g] > 1) highest = std::max(highest, score[g]);
  }
  for (std::size_t g = 0; g < score.size(); ++g)
    if (channels[g] <= 1) score[g] = std::isfinite(highest) ? highest : 0;
  return allocate_budget(score, kept, target, 1.0, levels);
}

std::vector<std::uint8_t> allocate_global(std::span<const double> loss, std::span<const double> kept, double target,
                                          std::span<const int> levels) {
  check_levels(levels);
  check_target(target, levels);
  check_kept(kept, loss.size() / levels.size());
  if (loss.size() % levels.size() != 0) throw Error("bit allocation: the table of losses is not items * levels long");
  check_finite(loss, "predicted loss", levels.size());
  const auto item_loss = [&](std::size_t i) { return loss.subspan(i * levels.size(), levels.size()); };
  std::vector<Increment> increments;
  increments.reserve(loss.size());
  for (std::size_t i = 0; i < kept.size(); ++i)
    if (kept[i] > 0) add_hull(increments, static_cast<std::uint32_t>(i), item_loss(i), kept[i], levels);
  std::stable_sort(increments.begin(), increments.end(), [](const Increment& a, const Increment& b) { return a.slope > b.slope; });

  const double total = std::accumulate(kept.begin(), kept.end(), 0.0);
  const double budget = target * total;
  double left = budget - levels.front() * total;
  Choice choice(kept.size(), 0);
  for (const Increment& step : increments) {
    if (choice[step.item] != step.from || step.cost > left) continue;
    choice[step.item] = step.to;
    left -= step.cost;
  }
  // Single steps, the steepest of those left first; where the loss no longer falls they come last.
  std::vector<double> slope(kept.size(), -std::numeric_limits<double>::infinity());
  for (std::size_t i = 0; i < kept.size(); ++i) {
    const std::size_t l = choice[i];
    if (kept[i] > 0 && l + 1 < levels.size()) slope[i] = (item_loss(i)[l] - item_loss(i)[l + 1]) / (kept[i] * (levels[l + 1] - levels[l]));
  }
  fill(choice, by_falling(slope), kept, budget - spent(choice, kept, levels), levels);
  return to_bits(choice, levels);
}

void spend_rest(std::span<std::uint8_t> bits, std::span<const double> score, std::span<const double> kept, double target,
                std::span<const int> levels) {
  check_levels(levels);
  check_kept(kept, bits.size());
  if (score.size() != bits.size()) throw Error("bit allocation: one score an item is needed");
  Choice choice(bits.size());
  for (std::size_t i = 0; i < bits.size(); ++i) {
    const auto level = std::find(levels.begin(), levels.end(), static_cast<int>(bits[i]));
    if (level == levels.end()) throw Error("bit allocation: " + std::to_string(bits[i]) + " bits are none of the levels");
    choice[i] = static_cast<std::uint8_t>(level - levels.begin());
  }
  const double budget = target * std::accumulate(kept.begin(), kept.end(), 0.0);
  fill(choice, by_falling(score), kept, budget - spent(choice, kept, levels), levels);
  const std::vector<std::uint8_t> filled = to_bits(choice, levels);
  std::copy(filled.begin(), filled.end(), bits.begin());
}

double average_bits(std::span<const std::uint8_t> bits, std::span<const double> kept) {
  double total = 0, weights = 0;
  for (std::size_t i = 0; i < bits.size(); ++i) total += kept[i] * bits[i], weights += kept[i];
  return weights > 0 ? total / weights : 0;
}

}  // namespace miq
