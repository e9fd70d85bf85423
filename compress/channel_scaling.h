// A scale for each input channel, multiplied into the weights that read it and divided out of what makes it: activation-aware scaling
// (Lin et al. 2023, AWQ, arXiv:2306.00978, section 3.2), as a change of the dense model before any method sees it.
//
//   W' = W diag(s),  x' = diag(s)^-1 x,  s_j = E[|x_j|]^alpha over its geometric mean
//
// Channels that are large get more of the grid of their (row, group). Where the division goes:
//   attention, mlp        into the gain (and bias) of the norm before them; all that read the norm are multiplied (routers too)
//   attention_output      into the rows of v (and their bias); query heads that share a value head share its scales
//   mlp_output            into the rows of up: of a gated MLP, or of one with ReLU, which lets positive factors pass
// A site is left alone where that does not work: norms after the residual sum, norms without gains (sliced models), other activations.
// The function of the dense model stays what it was up to the rounding of its element types; where a norm's new gain is rounded, the
// weights get the factor that makes up for it exactly.
#pragma once

#include <functional>

#include "miq/base/thread_pool.h"
#include "miq/compress/calibration.h"
#include "miq/compress/methods.h"
#include "miq/compress/working_memory.h"
#include "miq/formats/json.h"
#include "miq/model/model.h"

namespace miq {

struct ChannelScaling {
  Model model;
  // [{"layer": 0, "attention": {"alpha": 0.5, "predicted": 0.93}, …}, …]; predicted: loss over that without scales. In a mixture
  // "mlp_output" is an array with an entry for each expert, the shared one last.
  Json record;
};

// One walk over the dense model. `advance` is called with the share of the work just done. Without recipe.scaling_alpha each site's alpha
// is the one of 0, 0.1, …, 1 with the least predicted loss: the sum over its matrices of the share of sum_j H_jj sum_r w_rj^2 that
// rounding to nearest loses at the recipe's width and groups (predicted_loss.h). Copies of the scaled matrices take as
// much as the source takes for them decoded, in memory or on the disk.
ChannelScaling scale_channels(const Model& model, const Calibration& calibration, const Recipe& recipe, ThreadPool& pool,
                              const WorkingMemory& memory, const std::function<void(double share)>& advance);

}  // namespace miq
