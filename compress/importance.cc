// All statistics in double; logarithms are floored at 1e-12 so that dead channels rank lowest instead of failing.
#include "miq/compress/importance.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "miq/base/error.h"
#include "miq/compress/not_finite.h"

namespace miq {
namespace {

constexpr std::int64_t kColumnsPerUnit = 64;

std::vector<double> column_energy(const at::Tensor& weight, ThreadPool& pool) {
  const std::int64_t rows = weight.size(0), n = weight.size(1);
  const float* w = weight.const_data_ptr<float>();
  std::vector<double> energy(static_cast<std::size_t>(n), 0.0);
  pool.for_each((n + kColumnsPerUnit - 1) / kColumnsPerUnit, [&](std::int64_t unit) {
    const std::int64_t first = unit * kColumnsPerUnit, last = std::min(n, first + kColumnsPerUnit);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t j = first; j < last; ++j) energy[j] += static_cast<double>(w[r * n + j]) * w[r * n + j];
  });
  return energy;
}

void add_standardised_log(std::vector<double>& total, std::vector<double> values, double factor) {
  const auto n = static_cast<double>(values.size());
  double mean = 0, variance = 0;
  for (double& value : values) value = std::log(value + 1e-12), mean += value;
  mean /= n;
  for (double value : values) variance += (value - mean) * (value - mean);
  const double deviation = std::sqrt(variance / n) + 1e-9;
  for (std::size_t j = 0; j < values.size(); ++j) total[j] += factor * (values[j] - mean) / deviation;
}

}  // namespace

std::vector<double> channel_importance(const ChannelStatistics& statistics, const at::Tensor& weight,
                                       std::span<const double> inverse_diagonal, const ImportanceWeights& weights, ThreadPool& pool) {
  const std::int64_t n = statistics.channels();
  if (weight.dim() != 2 || weight.size(1) != n || weight.scalar_type() != at::kFloat ||
      static_cast<std::int64_t>(inverse_diagonal.size()) != n)
    throw Error("channel importance: statistics of " + std::to_string(n) + " channels do not fit the matrix or the inverse's diagonal");
  double sum = 0;
  for (double w : weights) {
    if (!(w >= 0) || !std::isfinite(w)) throw UsageError("importance weights must be numbers >= 0");
    sum += w;
  }
  if (sum <= 0) throw UsageError("at least one importance weight must be above 0");

  const auto mean = statistics.mean(), second = statistics.second_moment(), fourth = statistics.fourth_moment();
  const auto energy = column_energy(weight.contiguous(), pool);
  std::vector<double> spikiness(mean.size()), norm(mean.size()), removal(mean.size());
  for (std::int64_t j = 0; j < n; ++j) {
    const double variance = std::max(second[j] - mean[j] * mean[j], 1e-12);
    spikiness[j] = variance * fourth[j] / (second[j] * second[j] + 1e-20);
    norm[j] = std::sqrt(energy[j]);
    removal[j] = energy[j] / inverse_diagonal[j];
    if (!std::isfinite(spikiness[j]) || !(removal[j] >= 0) || !std::isfinite(removal[j]))
      throw NotFinite("channel importance: the statistics of channel " + std::to_string(j) + " are not finite");
  }
  std::vector<double> total(mean.size(), 0.0);
  add_standardised_log(total, statistics.mean_abs(), weights[0] / sum);
  add_standardised_log(total, second, weights[1] / sum);
  add_standardised_log(total, spikiness, weights[2] / sum);
  add_standardised_log(total, norm, weights[3] / sum);
  add_standardised_log(total, removal, weights[4] / sum);
  return total;
}

}  // namespace miq
