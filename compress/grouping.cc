// Every grouping is first a label for each channel. Then one rule makes a processing order of any labels: groups by falling mean energy,
// channels inside a group by falling energy. Large channels are thus solved first, while many others are left to take up
// their error, and those that share a scale are solved together.
#include "miq/compress/grouping.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mean.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "miq/base/error.h"
#include "miq/compress/hierarchical.h"
#include "miq/compress/not_finite.h"
#include "miq/compress/rng.h"
#include "miq/compress/spectral.h"

namespace miq {
namespace {

using Labels = std::vector<std::int32_t>;

std::vector<std::int64_t> identity(std::size_t n) {
  std::vector<std::int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  return order;
}

std::vector<std::int64_t> by_falling(std::span<const double> energy) {
  auto order = identity(energy.size());
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return energy[a] > energy[b]; });
  return order;
}

Labels cut(const std::vector<std::int64_t>& order, std::int64_t size) {
  Labels labels(order.size());
  for (std::size_t k = 0; k < order.size(); ++k) labels[order[k]] = static_cast<std::int32_t>(static_cast<std::int64_t>(k) / size);
  return labels;
}

std::vector<std::int64_t> shuffled(std::size_t n, std::uint64_t seed) {
  auto order = identity(n);
  SplitMix64 random(seed ^ 0x67726f757073u);
  for (std::size_t i = n; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return order;
}

// Labels 0, 1, … by falling mean energy of their channels; inside a label by falling energy.
std::vector<std::int64_t> energy_order(const Labels& labels, std::span<const double> energy) {
  const auto count = static_cast<std::size_t>(*std::max_element(labels.begin(), labels.end()) + 1);
  std::vector<double> sum(count, 0.0), channels(count, 0.0);
  for (std::size_t j = 0; j < labels.size(); ++j) sum[labels[j]] += energy[j], channels[labels[j]] += 1;
  for (std::size_t g = 0; g < count; ++g) sum[g] = channels[g] > 0 ? sum[g] / channels[g] : 0;
  auto order = identity(labels.size());
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    if (labels[a] == labels[b]) return energy[a] > energy[b];
    if (sum[labels[a]] != sum[labels[b]]) return sum[labels[a]] > sum[labels[b]];
    return labels[a] < labels[b];
  });
  return order;
}

// Fewer channels than this are clustered by the processor: copies and launches would take longer than the work.
constexpr std::int64_t kDeviceChannels = 1024;

Labels clusters_of(const at::Tensor& information, std::int64_t count, Clustering clustering, std::uint64_t seed, ThreadPool& pool,
                   const ComputeDevice& where) {
  if (clustering != Clustering::Spectral) return hierarchical_clusters(information, count);
  return spectral_clusters(information, count, seed, pool, information.size(0) >= kDeviceChannels ? where : ComputeDevice{});
}

// Clusters of the channels in `members` (any order), laid end to end by falling energy and cut into groups of `size`: labels from
// `first` on, written for the members alone.
void cluster_and_cut(std::span<const std::int64_t> members, std::span<const double> energy, const at::Tensor& information,
                     std::int64_t size, Clustering clustering, std::uint64_t seed, std::int32_t first, Labels& labels, ThreadPool& pool,
                     const ComputeDevice& where) {
  const auto count = static_cast<std::int64_t>(members.size());
  const std::int64_t clusters = (count + size - 1) / size;
  std::vector<double> its_energy(members.size());
  for (std::int64_t i = 0; i < count; ++i) its_energy[i] = energy[members[i]];
  Labels inside(members.size(), 0);
  if (clusters > 1) {
    const at::Tensor source = information.to(at::kFloat).contiguous();
    at::Tensor part = at::empty({count, count}, at::kFloat);
    const float* from = source.const_data_ptr<float>();
    float* to = part.data_ptr<float>();
    for (std::int64_t i = 0; i < count; ++i)
      for (std::int64_t j = 0; j < count; ++j) to[i * count + j] = from[members[i] * source.size(0) + members[j]];
    inside = clusters_of(part, clusters, clustering, seed, pool, where);
  }
  const auto order = energy_order(inside, its_energy);
  for (std::int64_t k = 0; k < count; ++k) labels[members[order[k]]] = first + static_cast<std::int32_t>(k / size);
}

// Bands of `band_groups` groups by falling energy, each clustered and cut by itself.
Labels banded(std::span<const double> energy, const at::Tensor& information, std::int64_t size, std::int64_t band_groups,
              Clustering clustering, std::uint64_t seed, ThreadPool& pool, const ComputeDevice& where) {
  const auto n = static_cast<std::int64_t>(energy.size());
  const std::int64_t groups = (n + size - 1) / size;
  const std::int64_t per_band = band_groups > 0 ? std::min(band_groups, groups) : groups;
  Labels labels(energy.size(), 0);
  const auto sorted = by_falling(energy);
  for (std::int64_t g = 0; g < groups; g += per_band) {
    const std::int64_t first = g * size, last = std::min(n, (g + per_band) * size);
    cluster_and_cut(std::span(sorted).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first)), energy, information,
                    size, clustering, seed + static_cast<std::uint64_t>(g), static_cast<std::int32_t>(g), labels, pool, where);
  }
  return labels;
}

ChannelGroups from_order(std::vector<std::int64_t> order, const Labels& labels) {
  ChannelGroups groups;
  groups.group_of.resize(order.size());
  for (std::size_t k = 0; k < order.size(); ++k) {
    if (k == 0 || labels[order[k]] != labels[order[k - 1]]) groups.starts.push_back(static_cast<std::int64_t>(k));
    groups.group_of[k] = static_cast<std::int32_t>(groups.starts.size()) - 1;
  }
  groups.starts.push_back(static_cast<std::int64_t>(order.size()));
  groups.order = std::move(order);
  return groups;
}

std::vector<double> mean_of_runs(std::span<const double> energy, std::int64_t run) {
  std::vector<double> mean(energy.size() / static_cast<std::size_t>(run), 0.0);
  for (std::size_t j = 0; j < energy.size(); ++j) mean[j / static_cast<std::size_t>(run)] += energy[j] / static_cast<double>(run);
  return mean;
}

std::vector<std::int64_t> expanded(const std::vector<std::int64_t>& runs, std::int64_t run) {
  std::vector<std::int64_t> order;
  for (std::int64_t first : runs) {
    for (std::int64_t i = 0; i < run; ++i) order.push_back(first * run + i);
  }
  return order;
}

// Groups of runs as if they were channels, and then of their channels.
ChannelGroups group_runs(GroupingOptions options, std::span<const double> energy, const at::Tensor& information, ThreadPool& pool,
                         const ComputeDevice& where) {
  const std::int64_t run = std::exchange(options.run, 1);
  const auto n = static_cast<std::int64_t>(energy.size());
  if (n % run != 0 || options.group_size % run != 0) {
    throw UsageError("runs of " + std::to_string(run) + " channels do not divide " + std::to_string(n) + " channels in groups of " +
                     std::to_string(options.group_size));
  }
  options.group_size /= run;
  options.groups = std::min(options.groups, n / run);
  at::Tensor between = information;
  if (information.defined() && information.dim() == 2 && information.size(0) == n && information.size(1) == n) {
    between = information.reshape({n / run, run, n / run, run}).mean({1, 3}).contiguous();
  }
  const ChannelGroups grouped = group_channels(options, mean_of_runs(energy, run), between, pool, where);
  ChannelGroups groups;
  groups.order = expanded(grouped.order, run);
  for (std::int32_t group : grouped.group_of) groups.group_of.insert(groups.group_of.end(), static_cast<std::size_t>(run), group);
  for (std::int64_t start : grouped.starts) groups.starts.push_back(start * run);
  return groups;
}

}  // namespace

std::string_view grouping_name(Grouping grouping) {
  switch (grouping) {
    case Grouping::Contiguous: return "contiguous";
    case Grouping::Sensitivity: return "sensitivity";
    case Grouping::MutualInformation: return "mi";
    case Grouping::MutualInformationEqual: return "mi-equal";
    case Grouping::Random: return "random";
  }
  throw Error("unknown grouping");
}

bool ChannelGroups::natural_order() const {
  for (std::size_t k = 0; k < order.size(); ++k)
    if (order[k] != static_cast<std::int64_t>(k)) return false;
  return true;
}

std::vector<std::int32_t> ChannelGroups::group_of_channel() const {
  std::vector<std::int32_t> group(order.size());
  for (std::size_t k = 0; k < order.size(); ++k) group[order[k]] = group_of[k];
  return group;
}

std::vector<std::int64_t> runs_by_falling(std::span<const double> energy, std::int64_t run) {
  return expanded(by_falling(run > 1 ? mean_of_runs(energy, run) : std::vector<double>(energy.begin(), energy.end())), run);
}

ChannelGroups group_channels(const GroupingOptions& options, std::span<const double> energy, const at::Tensor& mutual_information,
                             ThreadPool& pool, const ComputeDevice& where) {
  const auto n = static_cast<std::int64_t>(energy.size());
  if (n == 0) throw Error("grouping: the input has no channels");
  if (options.run > 1) return group_runs(options, energy, mutual_information, pool, where);
  if (options.group_size < 0 || options.groups < 0 || options.band_groups < 0)
    throw UsageError("the number and the size of groups and bands must not be negative");
  if (options.groups > n)
    throw UsageError(std::to_string(options.groups) + " groups were asked for, but an input has only " + std::to_string(n) + " channels");
  for (std::int64_t j = 0; j < n; ++j)
    if (!(energy[j] >= 0) || !std::isfinite(energy[j]))
      throw NotFinite("grouping: the second moment of channel " + std::to_string(j) + " is not a number >= 0; the calibration overflowed");
  std::int64_t size = options.group_size > 0 ? std::min(options.group_size, n) : n;
  if (options.groups > 0) size = (n + options.groups - 1) / options.groups;
  const std::int64_t clusters = options.groups > 0 ? options.groups : (n + size - 1) / size;

  if (needs_mutual_information(options.grouping) &&
      (!mutual_information.defined() || mutual_information.dim() != 2 || mutual_information.size(0) != n ||
       mutual_information.size(1) != n))
    throw Error("grouping by mutual information needs its matrix for all " + std::to_string(n) + " channels");
  Labels labels;
  switch (options.grouping) {
    case Grouping::Contiguous: return from_order(identity(energy.size()), cut(identity(energy.size()), size));
    case Grouping::Sensitivity: labels = cut(by_falling(energy), size); break;
    case Grouping::Random: labels = cut(shuffled(energy.size(), options.seed), size); break;
    case Grouping::MutualInformation: labels = clusters_of(mutual_information, clusters, options.clustering, options.seed, pool, where); break;
    case Grouping::MutualInformationEqual:
      labels = banded(energy, mutual_information, size, options.band_groups, options.clustering, options.seed, pool, where);
      break;
  }
  return from_order(energy_order(labels, energy), labels);
}

std::vector<std::int64_t> column_blocks(const ChannelGroups& groups, std::int64_t columns) {
  std::vector<std::int64_t> bounds = {0};
  for (std::int64_t g = 1; g <= groups.groups(); ++g) {
    const std::int64_t end = groups.starts[g];
    if (end - bounds.back() >= columns || g == groups.groups()) bounds.push_back(end);
  }
  return bounds;
}

}  // namespace miq
