// The plan of methods that spend one budget over the whole model (`mi`, `mixed`; recipe in mi.md): which channels form
// groups, how many bits each group of each matrix gets, and how many weights each group loses.
//
//   1. one walk over the dense model: energies H_jj of every input, what channels share, groups
//   2. one walk back from the losses of a few windows: f_r = E_t[(d loss / d y_r)^2] of every output row, at least a fifth
//      of its matrix' mean
//   3. what each width would cost each group; where zeros cost least
//   4. one knapsack over all groups of all matrices, or another allocator (plan_bits.h)
//
// Of each layer only vectors are kept, beside the inputs of all layers for the windows that are walked back.
//
// In a mixture of experts each expert has places of its own, seen by the tokens routed to it. E_t above is over all tokens,
// H over the expert's, so the product weighs an expert by how often it is used. One that no token reached (it will be
// rounded to nearest), or no token of the windows walked back, counts as an average expert of its layer.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "miq/base/progress.h"
#include "miq/base/ranks.h"
#include "miq/base/thread_pool.h"
#include "miq/compress/calibration.h"
#include "miq/compress/grouping.h"
#include "miq/compress/methods.h"
#include "miq/compress/mutual_information.h"
#include "miq/compress/working_memory.h"
#include "miq/model/forward.h"

namespace miq {

class RankJournal;  // rank_journal.h

// What is known of one place (InputPlace).
struct SitePlan {
  ChannelGroups channels;
  std::vector<double> energy;            // [n] H_jj by channel number
  std::vector<double> inverse_diagonal;  // [n] of the damped inverse; only with zeros
  MutualInformationSummary information;  // only where the recipe looks at mutual information
  std::vector<double> information_within;  // [groups] nats; only for Allocator::Redundancy
  std::vector<float> information_blocks;   // [blocks * blocks] nats (mutual_information.h), as `information`; empty where it was not measured
};

struct MatrixPlan {
  std::vector<std::uint8_t> bits_of_group;       // empty: not quantized
  std::vector<float> row_weights;                // [rows] f_r
  std::vector<std::int64_t> pruned_of_group;     // only with zeros; every group is a block of the sweep
  double least_importance = 0, most_importance = 0;  // of its channels: log10 of the predicted loss at the smallest level
};

struct LayerPlan {
  std::map<InputPlace, SitePlan> places;
  std::map<std::string, MatrixPlan, std::less<>> matrices;  // by rule name
};

// Windows that are walked back (mi.md step 2).
inline constexpr std::int64_t kSensitivityWindows = 16;
// The first so many of `windows` are measured by the walk forward: at least kSensitivityWindows, and enough for 4 tokens a channel of every input, an
// expert's by its mean share of them. Energies and groups need fewer tokens than a Hessian that rounding errors are compensated by.
std::int64_t plan_windows(const Config& config, std::int64_t windows, std::int64_t seqlen);

// Shares of the plan's work that its two walks take.
inline constexpr double kPlanForwardShare = 0.45, kPlanBackwardShare = 0.45;

// The same plan in all ranks, which call it together; the walks are shared (plan_walk.h), the budget is rank 0's work.
// `advance` is called with the share of the plan's work that was just done (all shares sum to 1, but for what the journal spares). With a
// journal, layers that an earlier run measured or walked back are taken from it, and those of this run are kept in it.
std::vector<LayerPlan> make_plan(const ForwardPass& dense, const Calibration& calibration, const Recipe& recipe, ThreadPool& pool,
                                 const std::function<void(std::string_view stage, double share)>& advance, RankJournal* journal = nullptr,
                                 const WorkingMemory& memory = {}, Ranks& ranks = no_other_ranks(), const ComputeDevice& where = {});

}  // namespace miq
