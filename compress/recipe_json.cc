// What a recipe's output remembers of it. Everything that changes the bytes stands here, since it also decides whether a journal
// belongs to a run; what is at its default is left out, so that an option that is added later changes nothing for those who do not use it.
#include "miq/compress/methods.h"
#include "miq/compress/resolve.h"

namespace miq {

Json Recipe::to_json() const {
  if (reshapes(*method)) return reshaping_json(*this);
  Json json{{"name", method->name}, {"compute", compute == ComputeType::BFloat16 ? "bfloat16" : "float32"}};
  if (sparsity > 0) {
    json["sparsity"] = sparsity;
    if (method->layout == Layout::Groups) json["sparsity_allocation"] = sparsity_allocation == SparsityAllocation::Global ? "global" : "even";
  }
  if (prune_m) json["prune_n"] = prune_n, json["prune_m"] = prune_m;
  if (method->solver == Solver::Hessian) json["damping"] = damping;
  if (refine || method->refine) json["refine"] = refine;
  if (act_order) json["act_order"] = true;
  if (true_sequential || method->true_sequential) json["true_sequential"] = true_sequential;
  if (dead_columns == DeadColumns::Zero) json["dead_columns"] = "zero";
  if (tune != Tune::None) json["tune"] = std::string(tune_name(tune)), json["tune_epochs"] = tune_epochs, json["seed"] = seed;
  if (!quantize) return json;
  if (channel_scaling) json["channel_scaling"] = scaling_alpha ? Json(*scaling_alpha) : Json("search");
  if (width) json["wbits"] = width;
  if (method->layout != Layout::Uniform) {
    json["levels"] = levels;
    if (target) json["target_avg_bits"] = *target;
    if (target_bpw) json["target_bpw"] = *target_bpw;
  }
  if (method->layout == Layout::Levels) json["bit_method"] = bit_method == BitMethod::Quantile ? "quantile" : "budget";
  if (importance_weights != kEqualImportanceWeights) json["importance_weights"] = importance_weights;
  if (clip != method->clip) json["clip"] = clip ? "search" : "none";
  if (static_groups) json["static_groups"] = true;
  if (allocator != Allocator::Global) json["allocator"] = std::string(allocator_name(allocator));
  if (needs_information()) {
    if (mi_estimator == MiEstimator::Binned) json["mi_estimator"] = "binned";
    if (clustering == Clustering::Hierarchical) json["clustering"] = "hierarchical";
  }
  if (method->layout == Layout::Groups) {
    json["grouping"] = std::string(grouping_name(grouping));
    if (needs_mutual_information(grouping) || grouping == Grouping::Random) json["seed"] = seed;
  }
  if (group_size) json["group_size"] = group_size;
  if (auto_groups) json["group_size"] = "auto";
  for (const BitsOverride& override : overrides) {
    Json entry{{"bits", override.bits}};
    if (override.kind.empty()) entry["layers"] = {override.first, override.last};
    else entry["kind"] = override.kind;
    json["overrides"].push_back(std::move(entry));
  }
  if (n_groups) json["n_groups"] = n_groups;
  if (codes_scales()) json["scale_bits"] = scale_bits;
  return json;
}

}  // namespace miq
