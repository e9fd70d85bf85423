// What the solver itself is told, the same for every layer.
#include "miq/compress/resolve.h"

#include <string>

#include "miq/base/error.h"
#include "miq/compress/solve.h"

namespace miq {
namespace {

// Sets of m columns must stay together in the sweep, and whole in the blocks that share a threshold or a grid.
void check_runs(const Config& config, const Recipe& recipe) {
  const std::int64_t m = recipe.prune_m;
  const bool solved = recipe.method->solver == Solver::Hessian, grouped = recipe.group_size || recipe.n_groups;
  if (m == 0 || !solved) return;
  if (m > 64) throw UsageError("--prune-m " + std::to_string(m) + ": at most 64 channels to a pattern");
  if (recipe.method->layout == Layout::Groups && recipe.n_groups) return;  // groups are made of whole sets
  const auto refuse = [&](const std::string& what) {
    throw UsageError("--prune-m " + std::to_string(m) + " does not divide " + what + ", so a pattern would lie across two of them");
  };
  if (!grouped || !recipe.quantize || recipe.static_groups) {
    if (128 % m != 0) refuse("the solver's blocks of 128 channels");
    return;
  }
  if (recipe.group_size) {
    if (recipe.group_size % m != 0) refuse("groups of " + std::to_string(recipe.group_size) + " channels");
    return;
  }
  for (const LayerConfig& layer : config.layers) {
    for (std::int64_t width : {config.hidden, layer.heads * layer.head_dim, layer.mlp_width, layer.shared_width}) {
      const std::int64_t size = (width + recipe.n_groups - 1) / recipe.n_groups;
      if (size % m != 0) refuse("groups of " + std::to_string(size) + " channels");
    }
  }
}

}  // namespace

void resolve_solver(const CompressOptions& options, const Config& config, Recipe& recipe) {
  const Method& method = *recipe.method;
  const std::string name(method.name);
  if (method.solver != Solver::Hessian) {
    if (options.act_order) throw UsageError("--act-order is an order to compensate errors in, and " + name + " compensates none");
    if (options.dead_columns) throw UsageError("--dead-columns belongs to the methods with a Hessian; " + name + " has none");
  }
  if (options.act_order && method.layout == Layout::Groups) {
    throw UsageError("--act-order belongs to sparsegpt, gptq and enhanced; the order of " + name + " is that of its groups (--grouping)");
  }
  if (options.static_groups && (method.layout != Layout::Uniform || method.solver != Solver::Hessian || !recipe.quantize ||
                                !(recipe.group_size || recipe.n_groups))) {
    throw UsageError("--static-groups belongs to sparsegpt and gptq with --group-size or --n-groups");
  }
  if (options.clip && !recipe.quantize) throw UsageError("--clip is about quantization, but nothing says to how many bits");
  recipe.clip = recipe.quantize && options.clip.value_or(method.clip);
  recipe.act_order = options.act_order;
  if (options.true_sequential.value_or(false) && !needs_calibration(recipe)) {
    throw UsageError("--true-sequential is about what is calibrated with; method " + name + " needs no calibration");
  }
  recipe.true_sequential = options.true_sequential.value_or(method.true_sequential);
  recipe.static_groups = options.static_groups;
  recipe.dead_columns = options.dead_columns.value_or(DeadColumns::Keep);
  if (!(options.damping > 0 && options.damping <= 10)) throw UsageError("--damping must be in (0, 10]; 0.01 is usual");
  recipe.damping = options.damping;
  if (options.refine && (*options.refine < 0 || *options.refine > 100)) throw UsageError("--refine must be 0 to 100 passes");
  if (options.refine.value_or(0) > 0 && recipe.method->solver != Solver::Hessian) {
    throw UsageError("--refine lowers the error that a Hessian measures; method " + std::string(recipe.method->name) + " has none");
  }
  recipe.refine = options.refine.value_or(method.refine);
  recipe.compute = options.compute;
  recipe.seed = options.seed;
  if (options.channel_scaling && !recipe.quantize) {
    throw UsageError("--channel-scaling makes rounding cheaper, but nothing says to how many bits; nothing would be quantized");
  }
  if (options.scaling_alpha && !(*options.scaling_alpha >= 0 && *options.scaling_alpha <= 1)) {
    throw UsageError("--channel-scaling=" + number_text(*options.scaling_alpha) + " is not between 0 and 1");
  }
  recipe.channel_scaling = options.channel_scaling;
  recipe.scaling_alpha = options.scaling_alpha;
  check_runs(config, recipe);
}

void resolve_tuning(const CompressOptions& options, Recipe& recipe) {
  recipe.tune = options.tune.value_or(Tune::None);
  if (recipe.tune == Tune::None) {
    if (options.tune_epochs) throw UsageError("--tune-epochs says how long to tune, but --tune does not say what; give --tune norms or --tune scales");
    return;
  }
  if (!recipe.quantize && recipe.tune != Tune::Norms) {
    throw UsageError("--tune " + std::string(tune_name(recipe.tune)) + " moves scales, but nothing is quantized; take --tune norms");
  }
  recipe.tune_epochs = options.tune_epochs.value_or(2);
  if (recipe.tune_epochs < 1 || recipe.tune_epochs > 1000) throw UsageError("--tune-epochs must be between 1 and 1000");
}

std::string_view tune_name(Tune tune) {
  switch (tune) {
    case Tune::None: return "none";
    case Tune::Norms: return "norms";
    case Tune::Rows: return "rows";
    case Tune::Scales: return "scales";
  }
  throw Error("unknown tuning");
}

}  // namespace miq
