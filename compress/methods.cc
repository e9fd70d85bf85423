// The table of methods, and one function that turns what a user asked for into a recipe. The rules about options are
// called from here (resolve.h), so that a run which would silently do less than asked for never starts.
#include "miq/compress/methods.h"

#include <algorithm>
#include <array>

#include "miq/base/error.h"
#include "miq/compress/quantizer.h"
#include "miq/compress/resolve.h"

namespace miq {
namespace {

constexpr std::array<Method, 11> kMethods{{
    {"sparsegpt", "zeros and uniform bits, compensated by the Hessian (SparseGPT)", Solver::Hessian, Layout::Uniform, Grouping::Contiguous, false, true},
    {"wanda", "zeros by weight times input norm, per row; bits to nearest", Solver::Wanda, Layout::Uniform, Grouping::Contiguous, false, true},
    {"magnitude", "zeros by size of weight, per matrix; bits to nearest", Solver::Magnitude, Layout::Uniform, Grouping::Contiguous, false, true},
    {"enhanced", "bits per input channel by five importance scores", Solver::Hessian, Layout::Levels, Grouping::Contiguous, true, true},
    {"mi", "bits per group of channels clustered by mutual information", Solver::Hessian, Layout::Groups, Grouping::MutualInformationEqual, true, true, true, Allocator::Global, 0, 2, true},
    {"mixed", "bits per group of channels sorted by sensitivity", Solver::Hessian, Layout::Groups, Grouping::Sensitivity, true, true, true, Allocator::Global, 0, 2, true},
    {"mi-first", "the first scheme by mutual information, for comparison: 20 clusters, fewer bits for redundant ones, no clipping",
     Solver::Hessian, Layout::Groups, Grouping::MutualInformation, true, true, false, Allocator::Redundancy, 20},
    {"rtn", "uniform bits to nearest, nothing compensated", Solver::Nearest, Layout::Uniform, Grouping::Contiguous, true, false},
    {"gptq", "uniform bits, compensated by the Hessian, no zeros", Solver::Hessian, Layout::Uniform, Grouping::Contiguous, true, false},
    {"slicegpt", "a narrower residual stream, cut along its principal axes (SliceGPT)", Solver::Slice, Layout::Uniform, Grouping::Contiguous, false, true},
    {"structured", "heads and MLP channels removed by the loss they carry (as LLM-Pruner), or whole layers", Solver::Structure, Layout::Uniform, Grouping::Contiguous, false, true},
}};

const Method& find_method(std::string_view name) {
  std::string known;
  for (const Method& method : kMethods) {
    if (method.name == name) return method;
    known += (known.empty() ? "" : ", ") + std::string(method.name);
  }
  throw UsageError("unknown method '" + std::string(name) + "'; known: " + known);
}

}  // namespace

std::span<const Method> methods() { return kMethods; }

std::int64_t Recipe::groups(std::int64_t cols) const {
  if (auto_groups) return (cols + kGroupSizes[1] - 1) / kGroupSizes[1];  // before the plan knows
  if (n_groups) return std::min(n_groups, cols);
  if (group_size) return (cols + group_size - 1) / group_size;
  return 1;
}

std::span<const float> Recipe::clips() const {
  const std::span<const float> all = solving_clips();
  return clip ? all : all.first(1);
}

Recipe resolve(const CompressOptions& given, const Config& config) {
  CompressOptions options = given;
  Recipe recipe;
  recipe.method = &find_method(options.method);
  if (config.sliced) {
    throw UsageError("the model was sliced by SliceGPT; its rotations belong to its weights, and compressing it further is not supported. "
                     "Compress the model that it was made from");
  }
  resolve_reshaping(options, config, recipe);
  if (reshapes(*recipe.method)) {
    if (options.tune_epochs || options.tune.value_or(Tune::None) != Tune::None) {
      throw UsageError("--tune belongs to the methods that keep a model's sizes, not to " + std::string(recipe.method->name));
    }
    return recipe;
  }
  // Two names for one thing: `enhanced` allocates by what it calls a bit method.
  if (recipe.method->layout == Layout::Levels && options.allocator && !options.bit_method) {
    if (options.allocator == Allocator::Quantile) options.bit_method = BitMethod::Quantile;
    if (options.allocator == Allocator::Budget) options.bit_method = BitMethod::Budget;
  }
  resolve_zeros(options, config, recipe);
  resolve_bits(options, recipe);
  resolve_groups(options, recipe);
  resolve_levels(options, recipe);
  resolve_allocator(options, recipe);
  resolve_overrides(options, config, recipe);
  resolve_information(options, recipe);
  resolve_solver(options, config, recipe);
  resolve_tuning(options, recipe);
  if (!recipe.quantize && recipe.sparsity == 0) {
    throw UsageError("nothing to do: give --sparsity, --prune-n and --prune-m, or a number of bits (--wbits, --target-avg-bits)");
  }
  return recipe;
}

}  // namespace miq
