// The table of methods, and one function that turns what a user asked for into a recipe. Every rule about
// options stands here, so that a run which would silently do less than asked for never starts.
#include "miq/compress/methods.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "miq/base/error.h"

namespace miq {
namespace {

constexpr std::array<Method, 8> kMethods{{
    {"sparsegpt", "zeros and uniform bits, compensated by the Hessian (SparseGPT)", Solver::Hessian, Layout::Uniform, Grouping::Contiguous, false, true},
    {"wanda", "zeros by weight times input norm, per row; bits to nearest", Solver::Wanda, Layout::Uniform, Grouping::Contiguous, false, true},
    {"magnitude", "zeros by size of weight, per matrix; bits to nearest", Solver::Magnitude, Layout::Uniform, Grouping::Contiguous, false, true},
    {"enhanced", "bits per input channel by five importance scores", Solver::Hessian, Layout::Levels, Grouping::Contiguous, true, true},
    {"mi", "bits per group of channels clustered by mutual information", Solver::Hessian, Layout::Groups, Grouping::MutualInformationEqual, true, true},
    {"mixed", "bits per group of channels sorted by sensitivity", Solver::Hessian, Layout::Groups, Grouping::Sensitivity, true, true},
    {"rtn", "uniform bits to nearest, nothing compensated", Solver::Nearest, Layout::Uniform, Grouping::Contiguous, true, false},
    {"gptq", "uniform bits, compensated by the Hessian, no zeros", Solver::Hessian, Layout::Uniform, Grouping::Contiguous, true, false},
}};

constexpr std::array<int, 5> kWidths{2, 3, 4, 6, 8};
constexpr std::array<std::string_view, 5> kGroupingNames{"contiguous", "sensitivity", "mi", "mi-equal", "random"};
bool is_width(int bits) { return std::find(kWidths.begin(), kWidths.end(), bits) != kWidths.end(); }

std::string number(double value) {
  std::string text = Json(value).dump();
  return text;
}

const Method& find_method(std::string_view name) {
  std::string known;
  for (const Method& method : kMethods) {
    if (method.name == name) return method;
    known += (known.empty() ? "" : ", ") + std::string(method.name);
  }
  throw UsageError("unknown method '" + std::string(name) + "'; known: " + known);
}

void resolve_zeros(const CompressOptions& options, const Config& config, Recipe& recipe) {
  const Method& method = *recipe.method;
  recipe.sparsity = options.sparsity.value_or(0);
  if (!(recipe.sparsity >= 0 && recipe.sparsity < 1)) {
    throw UsageError("--sparsity " + number(recipe.sparsity) + " is not in [0, 1): it is the share of weights that become zero");
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
      throw UsageError("--sparsity " + number(*options.sparsity) + " contradicts --prune-n/--prune-m, which make " + number(share) +
                       "; leave --sparsity out");
    }
    if (method.layout != Layout::Uniform) {
      throw UsageError("--prune-n/--prune-m work with sparsegpt, wanda and magnitude; " + std::string(method.name) +
                       " takes channels out of their order; use --sparsity");
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
}

void resolve_bits(const CompressOptions& options, Recipe& recipe) {
  const Method& method = *recipe.method;
  std::optional<double> target = options.target_avg_bits;
  if (options.wbits && *options.wbits != 16) {
    if (!is_width(*options.wbits)) throw UsageError("--wbits " + std::to_string(*options.wbits) + " is not 2, 3, 4, 6 or 8 (16: no quantization)");
    if (target && *target != *options.wbits) {
      throw UsageError("--wbits " + std::to_string(*options.wbits) + " and --target-avg-bits " + number(*target) +
                       " ask for different averages; give one of them");
    }
    target = *options.wbits;
  }
  if (target && !(*target >= 2 && *target <= 8)) throw UsageError("--target-avg-bits " + number(*target) + " is not between 2 and 8");
  const bool quantile = options.bit_method == BitMethod::Quantile;
  if (options.bit_method && method.layout != Layout::Levels) {
    if (quantile || method.layout == Layout::Uniform) throw UsageError("--bit-method belongs to method enhanced");
  }
  if (options.target_bpw) {
    if (target) throw UsageError("--target-bpw counts what --target-avg-bits and --wbits leave out; give one of them");
    if (method.layout != Layout::Groups) throw UsageError("--target-bpw belongs to methods mi and mixed; elsewhere the width decides");
    if (!(*options.target_bpw > 0 && *options.target_bpw <= 32))
      throw UsageError("--target-bpw " + number(*options.target_bpw) + " is not in (0, 32]");
  }
  const bool by_rank =
      (quantile && method.layout == Layout::Levels) || (method.layout == Layout::Groups && options.allocator == Allocator::Quantile);
  const bool has_bits = target || options.target_bpw || by_rank;
  if (!has_bits) {
    if (method.quantizes) {
      throw UsageError("method " + std::string(method.name) + " quantizes, but neither --wbits nor --target-avg-bits says to how many bits");
    }
    if (options.group_size || options.n_groups || options.grouping || options.levels || options.bit_method || options.allocator ||
        options.importance_weights) {
      throw UsageError(
          "--group-size, --n-groups, --grouping, --levels, --bit-method, --allocator and --importance-weights are about quantization, "
          "but neither --wbits nor --target-avg-bits says to how many bits; nothing would be quantized");
    }
    return;
  }
  recipe.quantize = true;
  recipe.bit_method = options.bit_method.value_or(BitMethod::Budget);
  recipe.target = target;
  recipe.target_bpw = options.target_bpw;
  if (method.layout == Layout::Uniform) {
    const int width = static_cast<int>(*target);
    if (width != *target || !is_width(width)) {
      throw UsageError("method " + std::string(method.name) + " gives every weight the same width, 2, 3, 4, 6 or 8; " + number(*target) +
                       " bits on average need enhanced, mi or mixed");
    }
    recipe.width = width;
  }
}

void resolve_groups(const CompressOptions& options, Recipe& recipe) {
  const Method& method = *recipe.method;
  if (options.n_groups && options.group_size) throw UsageError("--n-groups and --group-size say the same thing twice; give one of them");
  if (options.group_size && *options.group_size < 1) throw UsageError("--group-size must be at least 1 channel");
  if (options.n_groups && *options.n_groups < 1) throw UsageError("--n-groups must be at least 1");
  if (method.layout == Layout::Levels && (options.n_groups || options.group_size)) {
    throw UsageError("method enhanced has no groups: every channel has a width of its own; leave --group-size and --n-groups out");
  }
  if (options.grouping && method.layout != Layout::Groups) throw UsageError("--grouping belongs to methods mi and mixed");
  if (options.levels && method.layout == Layout::Uniform) throw UsageError("--levels belongs to methods enhanced, mi and mixed");
  recipe.grouping = options.grouping.value_or(method.grouping);
  recipe.group_size = options.group_size.value_or(0);
  recipe.n_groups = options.n_groups.value_or(0);
  // 64 channels share a scale; 128 where zeros leave half as many weights to pay for it.
  if (method.layout == Layout::Groups && !recipe.group_size && !recipe.n_groups) recipe.group_size = recipe.sparsity > 0 ? 128 : 64;
  if (method.layout == Layout::Uniform) return;
  recipe.levels = options.levels.value_or(std::vector<int>(kWidths.begin(), kWidths.end()));
  std::sort(recipe.levels.begin(), recipe.levels.end());
  recipe.levels.erase(std::unique(recipe.levels.begin(), recipe.levels.end()), recipe.levels.end());
  for (int level : recipe.levels) {
    if (!is_width(level)) throw UsageError("--levels: " + std::to_string(level) + " is not 2, 3, 4, 6 or 8");
  }
  if (recipe.levels.empty()) throw UsageError("--levels names no width");
  if (recipe.target && *recipe.target < recipe.levels.front()) {
    throw UsageError("an average of " + number(*recipe.target) + " bits is below the smallest level, " + std::to_string(recipe.levels.front()));
  }
}

void resolve_allocator(const CompressOptions& given, Recipe& recipe) {
  const Method& method = *recipe.method;
  if (!given.allocator) return;
  const std::string name(allocator_name(*given.allocator));
  switch (method.layout) {
    case Layout::Uniform:
      throw UsageError("--allocator belongs to methods enhanced, mi and mixed; " + std::string(method.name) + " has one width");
    case Layout::Levels: {
      if (*given.allocator != Allocator::Quantile && *given.allocator != Allocator::Budget) {
        throw UsageError("--allocator " + name + " belongs to methods mi and mixed; enhanced knows quantile and budget");
      }
      const BitMethod same = *given.allocator == Allocator::Quantile ? BitMethod::Quantile : BitMethod::Budget;
      if (given.bit_method && *given.bit_method != same)
        throw UsageError("--allocator and --bit-method contradict each other; give one of them");
      break;
    }
    case Layout::Groups: recipe.allocator = *given.allocator; break;
  }
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
    if (!(weight >= 0) || !std::isfinite(weight)) throw UsageError("--importance-weights: " + number(weight) + " is not a number >= 0");
    sum += recipe.importance_weights[static_cast<std::size_t>(i)] = weight;
  }
  if (!(sum > 0)) throw UsageError("--importance-weights: at least one must be above 0");
}

}  // namespace

std::string_view allocator_name(Allocator allocator) {
  switch (allocator) {
    case Allocator::Global: return "global";
    case Allocator::PerLayer: return "per-layer";
    case Allocator::Redundancy: return "redundancy";
    case Allocator::Quantile: return "quantile";
    case Allocator::Budget: return "budget";
  }
  throw Error("unknown allocator");
}

std::span<const Method> methods() { return kMethods; }

std::int64_t Recipe::groups(std::int64_t cols) const {
  if (n_groups) return std::min(n_groups, cols);
  if (group_size) return (cols + group_size - 1) / group_size;
  return 1;
}

Recipe resolve(const CompressOptions& given, const Config& config) {
  CompressOptions options = given;
  Recipe recipe;
  recipe.method = &find_method(options.method);
  if (config.sliced) {
    throw UsageError("the model was sliced by SliceGPT; its rotations belong to its weights, and compressing it further is not supported. "
                     "Compress the model that it was made from");
  }
  // Two names for one thing: `enhanced` allocates by what it calls a bit method.
  if (recipe.method->layout == Layout::Levels && options.allocator && !options.bit_method) {
    if (options.allocator == Allocator::Quantile) options.bit_method = BitMethod::Quantile;
    if (options.allocator == Allocator::Budget) options.bit_method = BitMethod::Budget;
  }
  resolve_zeros(options, config, recipe);
  resolve_bits(options, recipe);
  resolve_groups(options, recipe);
  resolve_allocator(options, recipe);
  resolve_information(options, recipe);
  if (!recipe.quantize && recipe.sparsity == 0) {
    throw UsageError("nothing to do: give --sparsity, --prune-n and --prune-m, or a number of bits (--wbits, --target-avg-bits)");
  }
  if (!(options.damping > 0 && options.damping <= 10)) throw UsageError("--damping must be in (0, 10]; 0.01 is usual");
  recipe.damping = options.damping;
  recipe.sparsity_allocation = options.sparsity_allocation.value_or(
      recipe.method->layout == Layout::Groups ? SparsityAllocation::Global : SparsityAllocation::Even);
  if (recipe.sparsity_allocation == SparsityAllocation::Global && recipe.method->layout != Layout::Groups) {
    throw UsageError("--sparsity-allocation global belongs to methods mi and mixed");
  }
  recipe.compute = options.compute;
  recipe.seed = options.seed;
  return recipe;
}

Json Recipe::to_json() const {
  Json json{{"name", method->name}, {"compute", compute == ComputeType::BFloat16 ? "bfloat16" : "float32"}};
  if (sparsity > 0) {
    json["sparsity"] = sparsity;
    if (method->layout == Layout::Groups) json["sparsity_allocation"] = sparsity_allocation == SparsityAllocation::Global ? "global" : "even";
  }
  if (prune_m) json["prune_n"] = prune_n, json["prune_m"] = prune_m;
  if (method->solver == Solver::Hessian) json["damping"] = damping;
  if (!quantize) return json;
  if (width) json["wbits"] = width;
  if (method->layout != Layout::Uniform) {
    json["levels"] = levels;
    if (target) json["target_avg_bits"] = *target;
    if (target_bpw) json["target_bpw"] = *target_bpw;
  }
  if (method->layout == Layout::Levels) json["bit_method"] = bit_method == BitMethod::Quantile ? "quantile" : "budget";
  if (importance_weights != kEqualImportanceWeights) json["importance_weights"] = importance_weights;
  if (allocator != Allocator::Global) json["allocator"] = std::string(allocator_name(allocator));
  if (needs_information()) {
    if (mi_estimator == MiEstimator::Binned) json["mi_estimator"] = "binned";
    if (clustering == Clustering::Hierarchical) json["clustering"] = "hierarchical";
  }
  if (method->layout == Layout::Groups) {
    json["grouping"] = std::string(kGroupingNames[static_cast<std::size_t>(grouping)]);
    if (needs_mutual_information(grouping) || grouping == Grouping::Random) json["seed"] = seed;
  }
  if (group_size) json["group_size"] = group_size;
  if (n_groups) json["n_groups"] = n_groups;
  return json;
}

}  // namespace miq
