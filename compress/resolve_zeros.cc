// Zeros: a share of all weights, or n in every m consecutive channels.
#include "miq/compress/resolve.h"

#include <cmath>

#include "miq/base/error.h"

namespace miq {

void resolve_zeros(const CompressOptions& options, const Config& config, Recipe& recipe) {
  const Method& method = *recipe.method;
  recipe.sparsity = options.sparsity.value_or(0);
  if (!(recipe.sparsity >= 0 && recipe.sparsity < 1)) {
    throw UsageError("--sparsity " + number_text(recipe.sparsity) + " is not in [0, 1): it is the share of weights that become zero");
  }
  recipe.prune_n = options.prune_n;
  recipe.prune_m = options.prune_m;
  if (recipe.prune_n != 0 || recipe.prune_m != 0) {
    if (!(0 < recipe.prune_n && recipe.prune_n < recipe.prune_m)) {
      throw UsageError("--prune-n " + std::to_string(recipe.prune_n) + " --prune-m " + std::to_string(recipe.prune_m) +
                       ": n zeros in every m weights needs 0 < n < m, such as 2 and 4");
    }
    const double share = static_cast<double>(recipe.prune_n) / recipe.prune_m;
    if (options.sparsity && *options.sparsity != 0 && std::abs(*options.sparsity - share) > 1e-9) {
      throw UsageError("--sparsity " + number_text(*options.sparsity) + " contradicts --prune-n/--prune-m, which make " + number_text(share) +
                       "; leave --sparsity out");
    }
    for (const LayerConfig& layer : config.layers) {
      for (std::int64_t width : {config.hidden, layer.heads * layer.head_dim, layer.mlp_width, layer.shared_width}) {
        if (width % recipe.prune_m != 0) {
          throw UsageError("--prune-m " + std::to_string(recipe.prune_m) + " does not divide an input of " + std::to_string(width) + " channels");
        }
      }
    }
    recipe.sparsity = share;
  }
  if (recipe.sparsity > 0 && !method.zeros) {
    throw UsageError("method " + std::string(method.name) + " makes no zeros; leave --sparsity out or take sparsegpt");
  }
  recipe.sparsity_allocation = options.sparsity_allocation.value_or(
      method.layout == Layout::Groups && recipe.prune_m == 0 ? SparsityAllocation::Global : SparsityAllocation::Even);
  if (recipe.sparsity_allocation == SparsityAllocation::Global && method.layout != Layout::Groups) {
    throw UsageError("--sparsity-allocation global belongs to methods mi and mixed");
  }
  if (recipe.sparsity_allocation == SparsityAllocation::Global && recipe.prune_m != 0) {
    throw UsageError("--sparsity-allocation global contradicts --prune-n/--prune-m, which make as many zeros everywhere");
  }
}

}  // namespace miq
