// What compression did to each matrix and layer, as the container's `statistics` has it: nothing is measured here.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "miq/formats/json.h"

namespace miq {

struct MatrixOutcome {
  std::int64_t layer = 0;
  std::string name;            // "q_proj", "experts.3.up_proj"
  double error = NAN;          // share of the outputs' energy that was lost (without calibration: of the squared weights)
  double refined = 0;          // share of the error that better rounding took away
  std::int64_t groups = 0, smallest_group = 0, largest_group = 0;  // of input channels; 0: a row is one group
  struct Information {         // mutual information between input channels, nats
    double mean = 0, largest = 0;        // over all pairs
    double within = 0, between = 0;      // mean over pairs of one group, and of different groups
    // [blocks][blocks] mean over the pairs of two groups, or of two runs of groups where there are many; on the diagonal within one.
    std::vector<std::vector<double>> blocks;
  };
  std::optional<Information> information;
  bool fallback = false;       // rounded to nearest, as the layer could not be solved
};

// What methods that make the model itself smaller did to a layer.
struct LayerOutcome {
  std::int64_t layer = 0;
  std::int64_t heads = 0, mlp_width = 0, width = 0;  // 0: not recorded; width: of the residual stream behind the layer
  double removed = 0;                                // share of its weights
};

struct StructureFigures {
  std::vector<MatrixOutcome> matrices;  // in the order of the container
  std::vector<LayerOutcome> layers;     // structured and sliced models only
};

// From Model::statistics. Entries of an unknown shape are left out; nothing when none is understood.
std::optional<StructureFigures> structure_figures(const Json& statistics);

// Groups × groups of mutual information is stored for up to this many groups; above, runs of groups are put together.
inline constexpr std::int64_t kInformationBlocks = 24;

}  // namespace miq
