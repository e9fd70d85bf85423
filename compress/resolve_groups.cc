// Groups of channels, and the measurements that form them.
#include "miq/compress/resolve.h"

#include <algorithm>
#include <cmath>

#include "miq/base/error.h"
#include "miq/formats/scale_code.h"

namespace miq {

void resolve_groups(const CompressOptions& options, Recipe& recipe) {
  const Method& method = *recipe.method;
  if (options.n_groups && options.group_size) throw UsageError("--n-groups and --group-size say the same thing twice; give one of them");
  if (options.auto_groups) {
    if (options.group_size || options.n_groups) throw UsageError("groups are to be found (auto) and given; do one of them");
    if (method.layout != Layout::Groups || method.n_groups) throw UsageError("--group-size auto belongs to methods mi and mixed");
    if (!options.target_bpw) throw UsageError("--group-size auto compares sizes at equal effective bits; give --target-bpw");
    if (options.allocator && *options.allocator != Allocator::Global)
      throw UsageError("--group-size auto compares predicted losses, which only --allocator global makes small");
    for (std::int64_t size : kGroupSizes) {
      if (recipe.prune_m && size % recipe.prune_m != 0)
        throw UsageError("--group-size auto needs an m of --prune-m that divides " + std::to_string(size));
    }
  }
  if (options.group_size && *options.group_size < 1) throw UsageError("--group-size must be at least 1 channel");
  if (options.n_groups && *options.n_groups < 1) throw UsageError("--n-groups must be at least 1");
  if (method.layout == Layout::Levels && (options.n_groups || options.group_size)) {
    throw UsageError("method enhanced has no groups: every channel has a width of its own; leave --group-size and --n-groups out");
  }
  if (options.grouping && method.layout != Layout::Groups) throw UsageError("--grouping belongs to methods mi and mixed");
  recipe.grouping = options.grouping.value_or(method.grouping);
  recipe.group_size = options.group_size.value_or(0);
  recipe.n_groups = options.n_groups.value_or(0);
  recipe.auto_groups = options.auto_groups;
  // Coded scales of 6 bits cost a tenth of a decibel and save ten bits a group and row; the others are as their papers have them, and
  // the first scheme as it was.
  const bool ours = method.layout == Layout::Groups && method.n_groups == 0;
  if (!ours && !recipe.group_size && !recipe.n_groups) recipe.n_groups = method.n_groups;
  recipe.scale_bits = options.scale_bits.value_or(ours && recipe.quantize ? 6 : 16);
  if (recipe.codes_scales() && (recipe.scale_bits < kLeastScaleBits || recipe.scale_bits > kMostScaleBits)) {
    throw UsageError("--scale-bits " + std::to_string(recipe.scale_bits) + " is not 16, nor 4 to 8 for coded scales");
  }
  // 32 channels share a scale, 64 where it is as long as five weights; more where zeros leave half as many weights to pay for it.
  if (method.layout == Layout::Groups && !recipe.group_size && !recipe.n_groups)
    recipe.group_size = (recipe.codes_scales() ? 32 : 64) * (recipe.sparsity > 0 ? 2 : 1);
}

void resolve_information(const CompressOptions& given, Recipe& recipe) {
  if (given.mi_estimator && !recipe.needs_information()) {
    throw UsageError("--mi-estimator says how mutual information is measured, but neither --grouping nor --allocator asks for it");
  }
  if (given.clustering && !needs_mutual_information(recipe.grouping)) {
    throw UsageError("--clustering belongs to the groupings mi and mi-sensitivity");
  }
  recipe.mi_estimator = given.mi_estimator.value_or(MiEstimator::Gaussian);
  recipe.clustering = given.clustering.value_or(Clustering::Spectral);
  if (!given.importance_weights) return;
  if (recipe.method->layout != Layout::Levels) throw UsageError("--importance-weights belongs to method enhanced");
  if (given.importance_weights->size() != kImportanceScores) {
    throw UsageError("--importance-weights needs five numbers: of mean size, energy, spikiness, weights, and cost of removal");
  }
  double sum = 0;
  for (int i = 0; i < kImportanceScores; ++i) {
    const double weight = (*given.importance_weights)[static_cast<std::size_t>(i)];
    if (!(weight >= 0) || !std::isfinite(weight)) throw UsageError("--importance-weights: " + number_text(weight) + " is not a number >= 0");
    sum += recipe.importance_weights[static_cast<std::size_t>(i)] = weight;
  }
  if (!(sum > 0)) throw UsageError("--importance-weights: at least one must be above 0");
}

}  // namespace miq
