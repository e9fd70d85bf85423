// The methods of miq-compress as a table, the options that choose between them, and the rules about which
// options go together. A method is a combination of three choices: which weights become zero, which
// input channels share a scale and a number of bits, and how many bits each group gets.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "miq/compress/grouping.h"
#include "miq/formats/json.h"
#include "miq/model/config.h"
#include "miq/model/forward.h"

namespace miq {

enum class BitMethod { Budget, Quantile };
enum class SparsityAllocation { Even, Global };

// As a user gives them; what is not given keeps the method's default (methods.cc: resolve).
struct CompressOptions {
  std::string method = "sparsegpt";
  std::optional<double> sparsity;          // share of zeros, [0, 1)
  int prune_n = 0, prune_m = 0;            // n zeros in every m consecutive input channels
  std::optional<int> wbits;                // a width; 16 means none, as in the earlier scripts
  std::optional<double> target_avg_bits;   // code bits per kept weight
  std::optional<BitMethod> bit_method;
  std::optional<Grouping> grouping;
  std::optional<std::int64_t> group_size;  // input channels in a group
  std::optional<std::int64_t> n_groups;    // groups in an input
  std::optional<std::vector<int>> levels;  // widths that mixed precision chooses from
  std::optional<SparsityAllocation> sparsity_allocation;
  double damping = 0.01;                   // of the mean diagonal of the Hessian
  ComputeType compute = ComputeType::BFloat16;
  std::uint64_t seed = 0;                  // of the clustering
};

// How weights become zero and how the rest is rounded.
enum class Solver {
  Hessian,    // SparseGPT's column sweep: every error is compensated by the columns still to come
  Wanda,      // |W| * ||x||, the lowest of every row; then nearest values
  Magnitude,  // |W|, the lowest of a matrix; then nearest values
  Nearest,    // no zeros, nearest values
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
};
std::span<const Method> methods();

// The options after the rules: everything decided, nothing optional.
struct Recipe {
  const Method* method = nullptr;
  double sparsity = 0;
  int prune_n = 0, prune_m = 0;
  bool quantize = false;
  int width = 0;                   // Uniform
  std::optional<double> target;    // Levels and Groups; none: equal fifths
  BitMethod bit_method = BitMethod::Budget;
  Grouping grouping = Grouping::Contiguous;
  std::int64_t group_size = 0;     // 0: n_groups is set, or a whole row
  std::int64_t n_groups = 0;
  std::vector<int> levels;
  SparsityAllocation sparsity_allocation = SparsityAllocation::Even;
  double damping = 0.01;
  ComputeType compute = ComputeType::BFloat16;
  std::uint64_t seed = 0;

  // Groups in an input of `cols` channels.
  std::int64_t groups(std::int64_t cols) const;
  Json to_json() const;  // Model::method
};

// Throws UsageError naming the options that contradict each other or the model, and what to do.
Recipe resolve(const CompressOptions& options, const Config& config);

}  // namespace miq
