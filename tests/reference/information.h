// Naive oracles of the binned estimate of mutual information and of average linkage.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <vector>

namespace miq::reference {

// 8 bins at the quantiles of each of two samples; plug-in estimate with the correction of Miller and Madow, in nats.
inline double binned_information(const std::vector<float>& x, const std::vector<float>& y) {
  const auto bins_of = [](const std::vector<float>& values) {
    std::vector<float> sorted = values;
    std::sort(sorted.begin(), sorted.end());
    std::vector<int> bins;
    for (float value : values) {
      int bin = 0;
      for (std::size_t b = 1; b < 8; ++b) bin += value >= sorted[b * sorted.size() / 8];
      bins.push_back(bin);
    }
    return bins;
  };
  const std::vector<int> a = bins_of(x), b = bins_of(y);
  std::map<int, double> of_a, of_b;
  std::map<std::pair<int, int>, double> of_both;
  const double n = static_cast<double>(x.size());
  for (std::size_t t = 0; t < a.size(); ++t) of_a[a[t]] += 1 / n, of_b[b[t]] += 1 / n, of_both[{a[t], b[t]}] += 1 / n;
  double sum = 0;
  for (const auto& [pair, p] : of_both) sum += p * std::log(p / (of_a[pair.first] * of_b[pair.second]));
  const double cells = static_cast<double>(of_a.size()) + static_cast<double>(of_b.size()) - static_cast<double>(of_both.size()) - 1;
  return std::max(0.0, sum + cells / (2 * n));
}

// Joins the two clusters of largest mean affinity again and again, every mean from its definition.
inline std::vector<std::int32_t> average_linkage(const std::vector<double>& affinity, std::size_t n, std::size_t clusters) {
  std::vector<std::vector<std::size_t>> sets;
  for (std::size_t i = 0; i < n; ++i) sets.push_back({i});
  while (sets.size() > clusters) {
    double best = -1;
    std::size_t first = 0, second = 0;
    for (std::size_t a = 0; a < sets.size(); ++a) {
      for (std::size_t b = a + 1; b < sets.size(); ++b) {
        double sum = 0;
        for (std::size_t i : sets[a])
          for (std::size_t j : sets[b]) sum += affinity[i * n + j];
        sum /= static_cast<double>(sets[a].size() * sets[b].size());
        if (sum > best) best = sum, first = a, second = b;
      }
    }
    sets[first].insert(sets[first].end(), sets[second].begin(), sets[second].end());
    sets.erase(sets.begin() + static_cast<std::ptrdiff_t>(second));
  }
  std::vector<std::int32_t> labels(n);
  for (std::size_t c = 0; c < sets.size(); ++c)
    for (std::size_t i : sets[c]) labels[i] = static_cast<std::int32_t>(c);
  return labels;
}

}  // namespace miq::reference
