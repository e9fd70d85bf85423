// Lloyd's iteration until no label changes or 30 rounds. Points are assigned in fixed units; centres are summed by one thread in point
// order, which costs 1/clusters of the assignment.
#include "miq/compress/kmeans.h"

#include <algorithm>
#include <limits>

#include "miq/compress/rng.h"

namespace miq {
namespace {

constexpr std::int64_t kPointsPerUnit = 64;
constexpr int kRestarts = 3;
constexpr int kRounds = 30;

struct Problem {
  const double* points;
  std::int64_t n, dimensions, clusters;
  const double* point(std::int64_t i) const { return points + i * dimensions; }
};

// Squared distances of one point to all centres; centres are stored dimension by dimension so that the inner loop runs over centres.
__attribute__((target_clones("avx512f", "avx2", "default"))) void distances(const double* point, const double* centres,
                                                                           std::int64_t dimensions, std::int64_t clusters, double* out) {
  std::fill_n(out, clusters, 0.0);
  for (std::int64_t d = 0; d < dimensions; ++d) {
    const double x = point[d];
    const double* centre = centres + d * clusters;
    for (std::int64_t c = 0; c < clusters; ++c) out[c] += (x - centre[c]) * (x - centre[c]);
  }
}

double squared_distance(const double* a, const double* b, std::int64_t dimensions) {
  double sum = 0;
  for (std::int64_t d = 0; d < dimensions; ++d) sum += (a[d] - b[d]) * (a[d] - b[d]);
  return sum;
}

void set_centre(std::vector<double>& centres, const Problem& p, std::int64_t c, const double* values) {
  for (std::int64_t d = 0; d < p.dimensions; ++d) centres[d * p.clusters + c] = values[d];
}

std::vector<double> seed_centres(const Problem& p, SplitMix64& random) {
  std::vector<double> centres(static_cast<std::size_t>(p.dimensions * p.clusters));
  std::vector<double> nearest(static_cast<std::size_t>(p.n), std::numeric_limits<double>::infinity());
  std::int64_t chosen = static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(p.n)));
  for (std::int64_t c = 0; c < p.clusters; ++c) {
    set_centre(centres, p, c, p.point(chosen));
    double total = 0;
    for (std::int64_t i = 0; i < p.n; ++i) {
      nearest[i] = std::min(nearest[i], squared_distance(p.point(i), p.point(chosen), p.dimensions));
      total += nearest[i];
    }
    // A point drawn with probability proportional to its squared distance; any point when all sit on centres.
    chosen = static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(p.n)));
    double draw = random.uniform() * total;
    for (std::int64_t i = 0; total > 0 && i < p.n; ++i) {
      if (nearest[i] <= 0) continue;
      chosen = i;
      if ((draw -= nearest[i]) < 0) break;
    }
  }
  return centres;
}

// Nearest centre of every point (ties: the lowest number). Returns the sum of squared distances, and whether any label changed.
double assign(const Problem& p, const std::vector<double>& centres, std::vector<std::int32_t>& labels, bool& changed, ThreadPool& pool) {
  const std::int64_t units = (p.n + kPointsPerUnit - 1) / kPointsPerUnit;
  std::vector<double> inertia(static_cast<std::size_t>(units), 0.0);
  std::vector<std::uint8_t> moved(static_cast<std::size_t>(units), 0);
  pool.for_each(units, [&](std::int64_t unit) {
    std::vector<double> distance(static_cast<std::size_t>(p.clusters));
    for (std::int64_t i = unit * kPointsPerUnit; i < std::min(p.n, (unit + 1) * kPointsPerUnit); ++i) {
      distances(p.point(i), centres.data(), p.dimensions, p.clusters, distance.data());
      const auto best = static_cast<std::int32_t>(std::min_element(distance.begin(), distance.end()) - distance.begin());
      inertia[unit] += distance[best];
      if (labels[i] != best) labels[i] = best, moved[unit] = 1;
    }
  });
  double total = 0;
  for (double part : inertia) total += part;
  changed = std::find(moved.begin(), moved.end(), 1) != moved.end();
  return total;
}

void move_centres(const Problem& p, const std::vector<std::int32_t>& labels, std::vector<double>& centres) {
  std::vector<double> sums(static_cast<std::size_t>(p.clusters * p.dimensions), 0.0);
  std::vector<std::int64_t> count(static_cast<std::size_t>(p.clusters), 0);
  for (std::int64_t i = 0; i < p.n; ++i) {
    ++count[labels[i]];
    for (std::int64_t d = 0; d < p.dimensions; ++d) sums[labels[i] * p.dimensions + d] += p.point(i)[d];
  }
  for (std::int64_t c = 0; c < p.clusters; ++c) {
    if (count[c] == 0) continue;  // an empty cluster stays where it is
    for (std::int64_t d = 0; d < p.dimensions; ++d) sums[c * p.dimensions + d] /= static_cast<double>(count[c]);
    set_centre(centres, p, c, sums.data() + c * p.dimensions);
  }
}

}  // namespace

std::vector<std::int32_t> kmeans(std::span<const double> points, std::int64_t n, std::int64_t dimensions, std::int64_t clusters,
                                 std::uint64_t seed, ThreadPool& pool) {
  const Problem p{points.data(), n, dimensions, clusters};
  SplitMix64 random(seed ^ 0x6b6d65616e73u);
  std::vector<std::int32_t> best_labels;
  double best = std::numeric_limits<double>::infinity();
  for (int restart = 0; restart < kRestarts; ++restart) {
    std::vector<double> centres = seed_centres(p, random);
    std::vector<std::int32_t> labels(static_cast<std::size_t>(n), -1);
    double inertia = 0;
    bool changed = true;
    for (int round = 0; round < kRounds && changed; ++round) {
      inertia = assign(p, centres, labels, changed, pool);
      move_centres(p, labels, centres);
    }
    if (best_labels.empty() || inertia < best) best = inertia, best_labels = labels;
  }
  return best_labels;
}

}  // namespace miq
