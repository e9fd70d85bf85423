// What the plan's walk back leaves of a layer (plan_walk.h); in a header of its own because journals keep it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "miq/compress/sparsity_plan.h"

namespace miq {

// What the walk back leaves of a matrix, for the allocators.
struct MatrixCosts {
  std::vector<double> sensitivity;    // f_r
  std::vector<double> column_errors;  // e_j(b)
  ScoreHistogram scores;              // only with zeros
  bool wide_scales = false;           // some scale may need F32; looked at under a target of effective bits only
};
using LayerCosts = std::map<std::string, MatrixCosts, std::less<>>;

}  // namespace miq
