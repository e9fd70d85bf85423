// A zero point has as many bits as a code, so to a group of b bits each row is one more kept weight. Effective bits are then code
// bits of a little more weights under a budget that the fixed parts have been taken from, and every allocator serves both targets.
#include "miq/compress/plan_bits.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>
#include <optional>

#include "miq/base/error.h"
#include "miq/compress/allocate.h"
#include "miq/formats/packed_matrix.h"

namespace miq {
namespace {

std::string rounded(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", value);
  return text;
}

// All groups of all matrices, one after the other.
struct Items {
  std::vector<double> losses, kept;
  std::vector<std::size_t> first;  // [matrices + 1]
  std::vector<int> levels;

  std::span<const double> loss(std::size_t item) const { return std::span(losses).subspan(item * levels.size(), levels.size()); }
  std::size_t size() const { return kept.size(); }
};

Items collect(std::span<const MatrixItems> matrices, const Recipe& recipe) {
  Items items;
  items.levels = recipe.levels;
  items.first.push_back(0);
  for (const MatrixItems& matrix : matrices) {
    items.losses.insert(items.losses.end(), matrix.losses.begin(), matrix.losses.end());
    for (double kept : matrix.kept) items.kept.push_back(kept + (recipe.target_bpw ? static_cast<double>(matrix.rows) : 0.0));
    items.first.push_back(items.kept.size());
  }
  return items;
}

// What the codes and zero points may take for each of the items' weights.
double target_of(std::span<const MatrixItems> matrices, const Items& items, const Recipe& recipe) {
  if (recipe.target) return *recipe.target;
  double fixed = 0, weights = 0;
  for (const MatrixItems& matrix : matrices) {
    fixed += static_cast<double>(fixed_bits(matrix, recipe.levels));
    weights += static_cast<double>(matrix.weights());
  }
  const double counted = std::accumulate(items.kept.begin(), items.kept.end(), 0.0);
  const double target = (*recipe.target_bpw * weights - fixed) / counted;
  const auto reach = [&](int level) { return (fixed + level * counted) / weights; };
  if (target < items.levels.front() || target > items.levels.back()) {
    throw UsageError("--target-bpw " + rounded(*recipe.target_bpw) + " cannot be reached: these levels and groups take from " +
                     rounded(std::ceil(reach(items.levels.front()) * 1000) / 1000) + " to " +
                     rounded(std::floor(reach(items.levels.back()) * 1000) / 1000) +
                     " effective bits a weight; larger groups (--group-size) take less for their scales");
  }
  return target;
}

// Predicted loss of a weight at the lowest level, as a logarithm.
std::vector<double> loss_scores(const Items& items) {
  std::vector<double> score(items.size());
  for (std::size_t i = 0; i < score.size(); ++i) {
    const double loss = items.kept[i] > 0 ? items.loss(i)[0] / items.kept[i] : 0;
    score[i] = std::log(std::max(loss, 1e-300));
  }
  return score;
}

// How much the next step of each item brings for a bit.
std::vector<double> next_slopes(const Items& items, std::span<const std::uint8_t> bits) {
  std::vector<double> slope(items.size(), -std::numeric_limits<double>::infinity());
  for (std::size_t i = 0; i < slope.size(); ++i) {
    const auto level =
        static_cast<std::size_t>(std::find(items.levels.begin(), items.levels.end(), static_cast<int>(bits[i])) - items.levels.begin());
    if (level + 1 < items.levels.size() && items.kept[i] > 0) {
      slope[i] = (items.loss(i)[level] - items.loss(i)[level + 1]) / (items.kept[i] * (items.levels[level + 1] - items.levels[level]));
    }
  }
  return slope;
}

std::vector<std::uint8_t> by_layer(std::span<const MatrixItems> matrices, const Items& items, double target) {
  std::vector<std::uint8_t> bits(items.size());
  for (std::size_t m = 0; m < matrices.size();) {
    std::size_t end = m;
    while (end < matrices.size() && matrices[end].layer == matrices[m].layer) ++end;
    const std::size_t first = items.first[m], count = items.first[end] - first;
    const auto part = allocate_global(std::span(items.losses).subspan(first * items.levels.size(), count * items.levels.size()),
                                      std::span(items.kept).subspan(first, count), target, items.levels);
    std::copy(part.begin(), part.end(), bits.begin() + static_cast<std::ptrdiff_t>(first));
    m = end;
  }
  spend_rest(bits, next_slopes(items, bits), items.kept, target, items.levels);
  return bits;
}

std::vector<std::uint8_t> by_matrix(std::span<const MatrixItems> matrices, const Items& items, const Recipe& recipe,
                                    std::optional<double> target) {
  std::vector<double> score = loss_scores(items);
  std::vector<std::uint8_t> bits(items.size());
  for (std::size_t m = 0; m < matrices.size(); ++m) {
    const MatrixItems& matrix = matrices[m];
    const std::size_t first = items.first[m], count = items.first[m + 1] - first;
    const std::span<const double> kept = std::span(items.kept).subspan(first, count), its_score = std::span(score).subspan(first, count);
    std::vector<std::uint8_t> part;
    if (recipe.allocator == Allocator::Redundancy) {
      std::vector<std::int64_t> channels;
      for (std::size_t g = 0; g < count; ++g) channels.push_back(matrix.starts[g + 1] - matrix.starts[g]);
      part = allocate_redundancy(matrix.information, channels, kept, *target, items.levels);
      for (std::size_t g = 0; g < count; ++g) score[first + g] = -matrix.information[g];
    } else if (recipe.allocator == Allocator::Budget) {
      part = allocate_budget(its_score, kept, *target, 1.0, items.levels);
    } else {
      part = target ? allocate_quantile(its_score, kept, *target, items.levels) : allocate_quantile(its_score, kept, items.levels);
    }
    std::copy(part.begin(), part.end(), bits.begin() + static_cast<std::ptrdiff_t>(first));
  }
  if (target) spend_rest(bits, score, items.kept, *target, items.levels);
  return bits;
}

std::vector<std::uint8_t> allocate(std::span<const MatrixItems> matrices, const Items& items, const Recipe& recipe, std::optional<double> target) {
  switch (recipe.allocator) {
    case Allocator::Global: return allocate_global(items.losses, items.kept, *target, items.levels);
    case Allocator::PerLayer: return by_layer(matrices, items, *target);
    case Allocator::Redundancy:
    case Allocator::Quantile:
    case Allocator::Budget: return by_matrix(matrices, items, recipe, target);
  }
  throw Error("unknown allocator");
}

std::vector<std::vector<std::uint8_t>> widths_of(const Items& items, const std::vector<std::uint8_t>& bits) {
  std::vector<std::vector<std::uint8_t>> widths;
  for (std::size_t m = 0; m + 1 < items.first.size(); ++m) {
    widths.emplace_back(bits.begin() + static_cast<std::ptrdiff_t>(items.first[m]), bits.begin() + static_cast<std::ptrdiff_t>(items.first[m + 1]));
  }
  return widths;
}

// The overridden parts in code bits, one after the other; then the others with what these leave of the whole budget.
std::vector<std::vector<std::uint8_t>> plan_parts(std::span<const MatrixItems> matrices, const Items& all, const Recipe& recipe) {
  const std::size_t parts = recipe.overrides.size() + 1;
  std::vector<std::vector<std::size_t>> members(parts);
  for (std::size_t m = 0; m < matrices.size(); ++m) {
    std::size_t part = 0;
    while (part + 1 < parts && !recipe.overrides[part].names(matrices[m].layer, matrices[m].kind)) ++part;
    members[part].push_back(m);
  }
  double left = target_of(matrices, all, recipe) * std::accumulate(all.kept.begin(), all.kept.end(), 0.0);
  std::vector<std::vector<std::uint8_t>> widths(matrices.size());
  for (std::size_t part = 0; part < parts; ++part) {
    std::vector<MatrixItems> own;
    for (std::size_t m : members[part]) own.push_back(matrices[m]);
    Recipe its = recipe;
    const bool rest = part + 1 == parts;
    if (!rest) its.target = recipe.overrides[part].bits, its.target_bpw.reset();
    const Items items = collect(own, its);
    const double counted = std::accumulate(items.kept.begin(), items.kept.end(), 0.0);
    double target = rest ? (counted > 0 ? left / counted : 0) : *its.target;
    if (rest && std::abs(target - items.levels.front()) < 1e-9) target = items.levels.front();
    if (rest && (left < 0 || (counted > 0 && target < items.levels.front()))) {
      throw UsageError("--layer-bits and --bits-of take so much that the rest cannot keep the average: it would have to have " + rounded(target) +
                       " bits, and the smallest level is " + std::to_string(items.levels.front()));
    }
    target = std::min<double>(target, items.levels.back());
    if (counted > 0) {
      const auto found = widths_of(items, allocate(own, items, its, target));
      for (std::size_t i = 0; i < own.size(); ++i) widths[members[part][i]] = found[i];
    } else {
      for (std::size_t i = 0; i < own.size(); ++i) widths[members[part][i]].assign(own[i].kept.size(), static_cast<std::uint8_t>(items.levels.front()));
    }
    for (std::size_t m : members[part]) {
      for (std::size_t g = 0; g < widths[m].size(); ++g) left -= all.kept[all.first[m] + g] * widths[m][g];
    }
  }
  return widths;
}

}  // namespace

std::int64_t fixed_bits(const MatrixItems& matrix, std::span<const int> levels) {
  const std::int64_t groups = matrix.groups();
  const auto lost = [](double bits) { return (8 - static_cast<std::int64_t>(std::fmod(bits, 8))) % 8; };
  std::int64_t ends = 0;
  for (double kept : matrix.kept) {
    std::int64_t most = 0;
    for (int level : levels) most = std::max(most, lost(kept * level) + lost(static_cast<double>(matrix.rows * level)));
    ends += most;
  }
  const std::int64_t mask = matrix.masked ? matrix.weights() : 0, index = matrix.starts.back() * group_index_bits(groups);
  ends += lost(static_cast<double>(mask)) + lost(static_cast<double>(index));
  const std::int64_t scales = groups * matrix.rows * matrix.scale_bits;
  const std::int64_t exponents = matrix.scale_bits < 16 ? (matrix.rows + 1) * 8 + lost(static_cast<double>(scales)) : 0;
  return scales + exponents + mask + index + groups * 8 + ends;
}

std::vector<std::vector<std::uint8_t>> plan_bits(std::span<const MatrixItems> matrices, const Recipe& recipe) {
  const Items items = collect(matrices, recipe);
  if (items.kept.empty()) return std::vector<std::vector<std::uint8_t>>(matrices.size());
  if (!recipe.overrides.empty()) return plan_parts(matrices, items, recipe);
  const bool free = !recipe.target && !recipe.target_bpw;  // classes by rank, whatever they take
  return widths_of(items, allocate(matrices, items, recipe, free ? std::nullopt : std::optional(target_of(matrices, items, recipe))));
}

}  // namespace miq
