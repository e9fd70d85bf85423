// What a plan (plan.h) reads from the dense model: one walk forward for energies and groups, one back for sensitivities and costs.
#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "miq/compress/plan.h"
#include "miq/compress/plan_costs.h"

namespace miq {

using PlanProgress = std::function<void(std::string_view stage, double share)>;

// A linear's dense weights, [out, in] float32.
at::Tensor matrix_values(const Model& model, std::int64_t layer, std::string_view rule);

// Fills the places of plans[recipe][layer]; the recipes differ in their groups alone. Returns the inputs of every layer, and the last layer's
// outputs, for the first kSensitivityWindows windows: [layers + 1][windows], each [tokens, hidden].
std::vector<std::vector<at::Tensor>> walk_forward(const ForwardPass& dense, const Calibration& calibration, std::span<const Recipe> recipes,
                                                  std::vector<std::vector<LayerPlan>>& plans, ThreadPool& pool, const PlanProgress& advance,
                                                  RunJournal* journal, const WorkingMemory& memory);

// Costs [recipes][layers]; `states` are walk_forward()'s.
std::vector<std::vector<LayerCosts>> walk_back(const ForwardPass& dense, const Calibration& calibration, std::span<const Recipe> recipes,
                                               const std::vector<std::vector<LayerPlan>>& plans, std::vector<std::vector<at::Tensor>> states,
                                               ThreadPool& pool, const PlanProgress& advance, RunJournal* journal);

}  // namespace miq
