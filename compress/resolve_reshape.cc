// A table of what neither method can do, then the few options of each.
#include "miq/compress/resolve.h"

#include <utility>

#include "miq/base/error.h"
#include "miq/compress/slice_fuse.h"
#include "miq/compress/structure.h"

namespace miq {
namespace {

void refuse_other_options(const CompressOptions& given, std::string_view method) {
  const std::pair<bool, const char*> others[] = {
      {given.prune_n != 0 || given.prune_m != 0, "--prune-n/--prune-m"},
      {given.wbits && *given.wbits != 16, "--wbits"},
      {given.target_avg_bits.has_value(), "--target-avg-bits"},
      {given.target_bpw.has_value(), "--target-bpw"},
      {given.bit_method.has_value(), "--bit-method"},
      {given.allocator.has_value(), "--allocator"},
      {given.importance_weights.has_value(), "--importance-weights"},
      {given.mi_estimator.has_value(), "--mi-estimator"},
      {given.clustering.has_value(), "--clustering"},
      {given.grouping.has_value(), "--grouping"},
      {given.group_size.has_value(), "--group-size"},
      {given.n_groups.has_value(), "--n-groups"},
      {given.levels.has_value(), "--levels"},
      {given.scale_bits.has_value(), "--scale-bits"},
      {given.auto_groups, "--group-size auto"},
      {!given.layer_bits.empty() || !given.bits_of.empty(), "--layer-bits and --bits-of"},
      {given.clip.has_value(), "--clip"},
      {given.act_order || given.static_groups, "--act-order and --static-groups"},
      {given.true_sequential.has_value(), "--true-sequential"},
      {given.dead_columns.has_value(), "--dead-columns"},
      {given.refine.has_value(), "--refine"},
      {given.channel_scaling, "--channel-scaling"},
  };
  for (const auto& [present, name] : others) {
    if (!present) continue;
    throw UsageError(std::string(name) + " is about single weights, and method " + std::string(method) +
                     " makes a smaller model of whole ones; leave it out" +
                     (method == "structured" ? ", and compress the result in a second run for fewer bits" : ""));
  }
}

void resolve_slice(const CompressOptions& given, const Config& config, Recipe& recipe) {
  check_sliceable(config);
  if (given.sparsity_allocation) throw UsageError("--sparsity-allocation does not belong to method slicegpt: every width is the same");
  if (given.removed_parts || given.protected_layers || given.removal_score || given.compensate) {
    throw UsageError("--remove, --protect-layers, --removal-score and --compensate belong to method structured");
  }
  recipe.round_interval = given.round_interval.value_or(8);
  if (recipe.round_interval < 1 || recipe.round_interval > config.hidden) {
    throw UsageError("--round-interval " + std::to_string(recipe.round_interval) + " is not between 1 and the hidden size, " +
                     std::to_string(config.hidden));
  }
  if (sliced_width(config.hidden, recipe.sparsity, recipe.round_interval) < 1) {
    throw UsageError("--sparsity " + number_text(recipe.sparsity) + " leaves less than one --round-interval (" +
                     std::to_string(recipe.round_interval) + ") of a hidden size of " + std::to_string(config.hidden));
  }
}

void resolve_structure(const CompressOptions& given, const Config& config, Recipe& recipe) {
  if (given.round_interval) throw UsageError("--round-interval belongs to method slicegpt");
  recipe.removed_parts = given.removed_parts.value_or(RemovedParts::Channels);
  const bool layers = recipe.removed_parts == RemovedParts::Layers;
  if (layers && given.sparsity_allocation)
    throw UsageError("--sparsity-allocation says where channels go; --remove layers takes whole layers");
  if (layers && given.compensate)
    throw UsageError("--compensate belongs to --remove channels: nothing is left of a removed layer to compensate in");
  recipe.sparsity_allocation = given.sparsity_allocation.value_or(layers ? SparsityAllocation::Even : kDefaultStructureAllocation);
  if (layers && given.removal_score)
    throw UsageError("--removal-score belongs to --remove channels: layers go by how little they turn the stream");
  recipe.removal_score = given.removal_score.value_or(RemovalScore::Fisher);
  recipe.compensate = !layers && given.compensate.value_or(true);
  const auto count = static_cast<std::int64_t>(config.layers.size());
  // As LLM-Pruner's README, which leaves the first four and the last two of 32 layers whole.
  recipe.protected_first = count / 8;
  recipe.protected_last = count / 16;
  if (given.protected_layers) {
    const std::vector<std::int64_t>& both = *given.protected_layers;
    if (both.size() != 2 || both[0] < 0 || both[1] < 0)
      throw UsageError("--protect-layers needs two numbers: how many of the first layers stay whole, and of the last");
    if (both[0] >= count || both[1] >= count - both[0]) {
      throw UsageError("--protect-layers " + std::to_string(both[0]) + "," + std::to_string(both[1]) + " leaves none of the " +
                       std::to_string(count) + " layers to remove anything from");
    }
    recipe.protected_first = both[0];
    recipe.protected_last = both[1];
  }
  check_structure(config, recipe);
}

// Options of these two methods, for all others.
void refuse_reshaping_options(const CompressOptions& given) {
  const std::pair<bool, const char*> options[] = {{given.round_interval.has_value(), "--round-interval belongs to method slicegpt"},
                                                  {given.removed_parts.has_value(), "--remove belongs to method structured"},
                                                  {given.protected_layers.has_value(), "--protect-layers belongs to method structured"},
                                                  {given.removal_score.has_value(), "--removal-score belongs to method structured"},
                                                  {given.compensate.has_value(), "--compensate belongs to method structured"}};
  for (const auto& [present, message] : options) {
    if (present) throw UsageError(message);
  }
}

}  // namespace

void resolve_reshaping(const CompressOptions& given, const Config& config, Recipe& recipe) {
  if (!reshapes(*recipe.method)) return refuse_reshaping_options(given);
  const std::string name(recipe.method->name);
  const bool slices = recipe.method->solver == Solver::Slice;
  refuse_other_options(given, name);
  if (!given.sparsity) {
    throw UsageError("method " + name + " needs --sparsity: the share of the " + (slices ? "stream's width" : "layers' weights") +
                     " to cut away, such as 0.25");
  }
  recipe.sparsity = *given.sparsity;
  if (!(recipe.sparsity >= 0 && recipe.sparsity < 1)) throw UsageError("--sparsity " + number_text(recipe.sparsity) + " is not in [0, 1)");
  resolve_solver(given, config, recipe);
  slices ? resolve_slice(given, config, recipe) : resolve_structure(given, config, recipe);
}

Json reshaping_json(const Recipe& recipe) {
  Json json{{"name", recipe.method->name}, {"compute", recipe.compute == ComputeType::BFloat16 ? "bfloat16" : "float32"}};
  if (recipe.method->solver == Solver::Slice) {
    json.update({{"pruning_ratio", recipe.sparsity},
                 {"round_interval", recipe.round_interval},
                 {"orientation", "pca"},
                 {"damping", recipe.damping}});
    return json;
  }
  json["sparsity"] = recipe.sparsity;
  json["removed"] = recipe.removed_parts == RemovedParts::Layers ? "layers" : "channels";
  json["protected_layers"] = {recipe.protected_first, recipe.protected_last};
  if (recipe.removed_parts == RemovedParts::Layers) return json;
  json["allocation"] = recipe.sparsity_allocation == SparsityAllocation::Global ? "global" : "even";
  json["score"] = recipe.removal_score == RemovalScore::Taylor ? "taylor" : "fisher";
  json["compensated"] = recipe.compensate;
  if (recipe.compensate) json["damping"] = recipe.damping;
  return json;
}

}  // namespace miq
