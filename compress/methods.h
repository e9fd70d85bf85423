// The methods of miq-compress as a table, the options that choose between them, and the rules about which
// options go together. A method is a combination of three choices: which weights become zero, which
// input channels share a scale and a number of bits, and how many bits each group gets.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "miq/compress/grouping.h"
#include "miq/compress/hessian.h"
#include "miq/compress/importance.h"
#include "miq/compress/mutual_information.h"
#include "miq/formats/json.h"
#include "miq/model/config.h"
#include "miq/model/forward.h"

namespace miq {

enum class BitMethod { Budget, Quantile };
enum class SparsityAllocation { Even, Global };
// What is tuned after the last layer, at no cost in bits (tune.h).
enum class Tune {
  None,
  Norms,   // the gains of the layers' norms and of the last one
  Rows,    // and one factor for all scales of a row of a packed matrix
  Scales,  // and every scale
};
std::string_view tune_name(Tune tune);  // "none", "norms", "rows", "scales"

// Who gets how many bits where groups have widths (allocate.h). All but Global look at a part of the model at a time and then spend
// what the parts left over.
enum class Allocator {
  Global,      // by predicted loss, over all groups of the model
  PerLayer,    // by predicted loss, the same budget for every layer
  Redundancy,  // per matrix: groups that share much information get less; the first scheme
  Quantile,    // per matrix: classes by rank of the predicted loss of a weight
  Budget,      // per matrix: the level nearest to a line through the standardised logarithm of that loss
};
std::string_view allocator_name(Allocator allocator);  // "global", "per-layer", "redundancy", "quantile", "budget"

// What method structured removes.
enum class RemovedParts {
  Channels,  // query heads with the key/value head that they share, and channels of the MLPs
  Layers,    // whole decoder layers
};

// By what (structure_scores.h).
enum class RemovalScore {
  Fisher,  // mean square over tokens of the first-order change of the loss when a channel's output is taken away
  Taylor,  // sum of |w dL/dw| over its weights, as LLM-Pruner (param_first)
};

// As a user gives them; what is not given keeps the method's default (methods.cc: resolve).
struct CompressOptions {
  std::string method = "sparsegpt";
  std::optional<double> sparsity;          // share of zeros, [0, 1)
  int prune_n = 0, prune_m = 0;            // n zeros in every m consecutive input channels
  std::optional<int> wbits;                // a width; 16 means none, as in the earlier scripts
  std::optional<double> target_avg_bits;   // code bits per kept weight
  std::optional<double> target_bpw;        // effective bits of a weight, everything stored counted
  std::optional<BitMethod> bit_method;
  std::optional<Allocator> allocator;
  std::optional<std::vector<double>> importance_weights;  // of the five scores (importance.h)
  std::optional<MiEstimator> mi_estimator;
  std::optional<Clustering> clustering;
  std::optional<Grouping> grouping;
  std::optional<std::int64_t> group_size;  // input channels in a group
  std::optional<std::int64_t> n_groups;    // groups in an input
  bool auto_groups = false;                // instead of both: whichever of kGroupSizes predicts the least loss
  std::vector<std::string> layer_bits;     // "0-1=4", "29=6": code bits of layers on average
  std::vector<std::string> bits_of;        // "down_proj=4": of kinds of matrices
  std::optional<int> scale_bits;           // of a scale: 16, or coded ones of 4 to 8 (formats/scale_code.h); mi, mixed: 6, others: 16
  std::optional<std::vector<int>> levels;  // widths that mixed precision chooses from
  std::optional<SparsityAllocation> sparsity_allocation;
  // Of the methods that change a model's sizes (reshape_options.h).
  std::optional<std::int64_t> round_interval;                // slicegpt: widths are multiples of it
  std::optional<RemovedParts> removed_parts;                 // structured
  std::optional<std::vector<std::int64_t>> protected_layers; // structured: how many of the first and of the last stay whole
  std::optional<RemovalScore> removal_score;                 // structured
  std::optional<bool> compensate;                            // structured
  std::optional<bool> clip;                // search for each grid's clip ratio (solving_clips()); or the whole range always
  bool act_order = false;                  // sweep the channels by falling energy
  std::optional<bool> true_sequential;     // a layer's linears see what those in front of them became, not the dense ones' outputs
  bool static_groups = false;              // groups are runs of stored channels, their grids found before the sweep
  std::optional<DeadColumns> dead_columns;
  std::optional<Tune> tune;
  std::optional<int> tune_epochs;          // passes over the calibration windows
  double damping = 0.01;                   // of the mean diagonal of the Hessian
  std::optional<int> refine;               // passes of better rounding after the sweep (refine.h)
  ComputeType compute = ComputeType::BFloat16;
  std::uint64_t seed = 0;                  // of the clustering
  bool channel_scaling = false;            // channel_scaling.h
  std::optional<double> scaling_alpha;     // with it: no search
};

// How weights become zero and how the rest is rounded.
enum class Solver {
  Hessian,    // SparseGPT's column sweep: every error is compensated by the columns still to come
  Wanda,      // |W| * ||x||, the lowest of every row; then nearest values
  Magnitude,  // |W|, the lowest of a matrix; then nearest values
  Nearest,    // no zeros, nearest values
  Slice,      // no matrix of its own: the residual stream is made narrower (slice.h)
  Structure,  // heads, MLP channels or layers are removed (structure.h)
};
// Who shares a scale.
enum class Layout {
  Uniform,  // a row, or runs of `group_size` channels; one width
  Levels,   // every channel a width of its own, one scale per row and width (`enhanced`)
  Groups,   // groups of channels, a width per group, found under one budget over the model
};

struct Method {
  std::string_view name;
  std::string_view help;  // one line for --help
  Solver solver;
  Layout layout;
  Grouping grouping;      // Groups only: the default
  bool quantizes;         // needs a width or a target
  bool zeros;             // takes --sparsity and --prune-n/--prune-m
  // More defaults of Groups.
  bool clip = false;
  Allocator allocator = Allocator::Global;
  std::int64_t n_groups = 0;  // 0: a group size (resolve_groups)
  int refine = 0;             // passes
  bool true_sequential = false;
};
std::span<const Method> methods();
// Whether it changes the model's sizes, not its matrices: such methods have a driver of their own (reshape.h) and no journal.
inline bool reshapes(const Method& method) { return method.solver == Solver::Slice || method.solver == Solver::Structure; }

// Matrices whose average stands by itself; the rest of the model gets what these leave of the budget.
struct BitsOverride {
  std::int64_t first = 0, last = 0;  // layers
  std::string kind;                  // "down_proj", as the last part of a rule's name before ".weight"; empty: all of these layers
  double bits = 0;                   // code bits of a kept weight
  bool names(std::int64_t layer, std::string_view its_kind) const { return first <= layer && layer <= last && (kind.empty() || kind == its_kind); }
};

// Sizes that --group-size auto tries.
inline constexpr std::array<std::int64_t, 3> kGroupSizes{32, 64, 128};

// The options after the rules: everything decided, nothing optional.
struct Recipe {
  const Method* method = nullptr;
  double sparsity = 0;
  int prune_n = 0, prune_m = 0;
  bool quantize = false;
  int width = 0;                   // Uniform
  std::optional<double> target;    // Levels and Groups; none: equal fifths
  std::optional<double> target_bpw;  // Groups: instead of target
  BitMethod bit_method = BitMethod::Budget;
  Allocator allocator = Allocator::Global;
  ImportanceWeights importance_weights = kEqualImportanceWeights;
  MiEstimator mi_estimator = MiEstimator::Gaussian;
  Clustering clustering = Clustering::Spectral;
  Grouping grouping = Grouping::Contiguous;
  std::int64_t group_size = 0;     // 0: n_groups is set, or a whole row
  std::int64_t n_groups = 0;
  bool auto_groups = false;        // group_size is found by the plan
  int scale_bits = 16;             // 16: F16 (F32 where a row has one scale); 4 to 8: coded
  std::vector<int> levels;
  std::vector<BitsOverride> overrides;  // the first that names a matrix counts
  SparsityAllocation sparsity_allocation = SparsityAllocation::Even;
  std::int64_t round_interval = 8;                       // slicegpt
  RemovedParts removed_parts = RemovedParts::Channels;   // structured
  std::int64_t protected_first = 0, protected_last = 0;  // structured
  RemovalScore removal_score = RemovalScore::Fisher;      // structured
  bool compensate = false;                               // structured
  bool clip = false;
  bool act_order = false, static_groups = false, true_sequential = false;
  DeadColumns dead_columns = DeadColumns::Keep;
  Tune tune = Tune::None;
  int tune_epochs = 0;
  double damping = 0.01;
  int refine = 0;
  ComputeType compute = ComputeType::BFloat16;
  std::uint64_t seed = 0;
  bool channel_scaling = false;
  std::optional<double> scaling_alpha;

  bool codes_scales() const { return scale_bits != 16; }
  // Whether the plan looks at the mutual information of channels.
  bool needs_information() const { return needs_mutual_information(grouping) || allocator == Allocator::Redundancy; }
  std::span<const float> clips() const;  // ratios that a grid is tried with
  // How many stored channels must follow each other in the sweep: m of n:m, else 1.
  std::int64_t run() const { return prune_m ? prune_m : 1; }
  // Groups in an input of `cols` channels.
  std::int64_t groups(std::int64_t cols) const;
  Json to_json() const;  // Model::method
};

// Throws UsageError naming the options that contradict each other or the model, and what to do.
Recipe resolve(const CompressOptions& options, const Config& config);

}  // namespace miq
