// The nearest-neighbour chain: from any cluster to the one it shares most with, and on, until two name each other; those are
// joined. With average linkage no join makes a cluster closer to a third than both its parts were, so the joins are those of the plain
// rule, only in another order (Murtagh, 1983); sorted by affinity, the first n - clusters of them are kept. n^2 steps in all.
#include "miq/compress/hierarchical.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "miq/base/error.h"
#include "miq/compress/not_finite.h"

namespace miq {
namespace {

struct Join {
  double affinity;
  std::int32_t first, second;  // a channel of each part
};

// All n - 1 joins of the tree.
std::vector<Join> tree(std::vector<float> mean, std::int64_t n) {
  std::vector<std::int64_t> size(static_cast<std::size_t>(n), 1);  // 0: joined to another
  std::vector<std::int64_t> chain;
  std::vector<Join> joins;
  std::int64_t start = 0;
  while (static_cast<std::int64_t>(joins.size()) + 1 < n) {
    if (chain.empty()) {
      while (size[static_cast<std::size_t>(start)] == 0) ++start;
      chain.push_back(start);
    }
    const std::int64_t tip = chain.back(), before = chain.size() > 1 ? chain[chain.size() - 2] : -1;
    const float* row = mean.data() + tip * n;
    std::int64_t nearest = before;  // wins a tie, or two might circle
    for (std::int64_t j = 0; j < n; ++j) {
      if (j != tip && size[static_cast<std::size_t>(j)] > 0 && (nearest < 0 || row[j] > row[nearest])) nearest = j;
    }
    if (nearest != before) {
      chain.push_back(nearest);
      continue;
    }
    const auto a = static_cast<std::size_t>(std::min(tip, nearest)), b = static_cast<std::size_t>(std::max(tip, nearest));
    joins.push_back({row[nearest], static_cast<std::int32_t>(a), static_cast<std::int32_t>(b)});
    const auto of_a = static_cast<double>(size[a]), of_b = static_cast<double>(size[b]);
    const auto width = static_cast<std::size_t>(n);
    for (std::size_t j = 0; j < width; ++j) {
      if (size[j] == 0 || j == a || j == b) continue;
      mean[a * width + j] = mean[j * width + a] =
          static_cast<float>((of_a * mean[a * width + j] + of_b * mean[b * width + j]) / (of_a + of_b));
    }
    size[a] += size[b];
    size[b] = 0;
    chain.resize(chain.size() - 2);
  }
  return joins;
}

std::int32_t root(std::vector<std::int32_t>& parent, std::int32_t channel) {
  while (parent[static_cast<std::size_t>(channel)] != channel) {
    auto& up = parent[static_cast<std::size_t>(channel)];
    channel = up = parent[static_cast<std::size_t>(up)];
  }
  return channel;
}

}  // namespace

std::vector<std::int32_t> hierarchical_clusters(const at::Tensor& affinity, std::int64_t clusters) {
  if (!affinity.defined() || affinity.dim() != 2 || affinity.size(0) != affinity.size(1) || !affinity.device().is_cpu())
    throw Error("hierarchical clustering: the affinity must be a square matrix on the CPU");
  if (clusters < 1) throw UsageError("hierarchical clustering: at least one cluster is needed");
  const std::int64_t n = affinity.size(0);
  const at::Tensor source = affinity.to(at::kFloat).contiguous();
  std::vector<float> values(source.const_data_ptr<float>(), source.const_data_ptr<float>() + n * n);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!(values[i] >= 0) || !std::isfinite(values[i]))
      throw NotFinite("hierarchical clustering: the affinity of channels " + std::to_string(static_cast<std::int64_t>(i) / n) + " and " +
                  std::to_string(static_cast<std::int64_t>(i) % n) + " is not a number >= 0");
  }
  std::vector<std::int32_t> parent(static_cast<std::size_t>(n));
  std::iota(parent.begin(), parent.end(), 0);
  if (clusters < n) {
    std::vector<Join> joins = tree(std::move(values), n);
    std::stable_sort(joins.begin(), joins.end(), [](const Join& a, const Join& b) { return a.affinity > b.affinity; });
    joins.resize(static_cast<std::size_t>(n - clusters));
    for (const Join& join : joins) parent[static_cast<std::size_t>(root(parent, join.second))] = root(parent, join.first);
  }
  std::vector<std::int32_t> labels(static_cast<std::size_t>(n)), name(static_cast<std::size_t>(n), -1);
  std::int32_t next = 0;
  for (std::int32_t j = 0; j < n; ++j) {
    auto& given = name[static_cast<std::size_t>(root(parent, j))];
    if (given < 0) given = next++;
    labels[static_cast<std::size_t>(j)] = given;
  }
  return labels;
}

}  // namespace miq
