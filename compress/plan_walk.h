// What a plan (plan.h) reads from the dense model: one walk forward for energies and groups, one back for sensitivities and costs.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "miq/base/ranks.h"
#include "miq/compress/plan.h"
#include "miq/compress/plan_costs.h"

namespace miq {

class RankJournal;  // rank_journal.h

using PlanProgress = std::function<void(std::string_view stage, double share)>;

// A linear's dense weights, [out, in] float32.
at::Tensor matrix_values(const Model& model, std::int64_t layer, std::string_view rule);

// Both walks are done by all `ranks` together, each on its own windows (`calibration`, of `windows` in all): sums over windows are summed over ranks, and a
// place or a matrix is looked at by one rank, for all. Plans and costs are the same in all ranks; states are a rank's own.
//
// Fills the places of plans[recipe][layer]; the recipes differ in their groups alone. Returns the inputs of every layer, and the last layer's
// outputs, for the first kSensitivityWindows windows: [layers + 1][windows], each [tokens, hidden].
std::vector<std::vector<at::Tensor>> walk_forward(const ForwardPass& dense, const Calibration& calibration, std::span<const Recipe> recipes,
                                                  std::vector<std::vector<LayerPlan>>& plans, ThreadPool& pool, const PlanProgress& advance,
                                                  RankJournal* journal, const WorkingMemory& memory, Ranks& ranks, std::int64_t windows,
                                                  const ComputeDevice& where = {});

// Costs [recipes][layers]; `states` are walk_forward()'s.
std::vector<std::vector<LayerCosts>> walk_back(const ForwardPass& dense, const Calibration& calibration, std::span<const Recipe> recipes,
                                               const std::vector<std::vector<LayerPlan>>& plans, std::vector<std::vector<at::Tensor>> states,
                                               ThreadPool& pool, const PlanProgress& advance, RankJournal* journal, Ranks& ranks, std::int64_t windows);

}  // namespace miq
