// The column sweep of SparseGPT, GPTQ and the mixed-precision methods: columns are pruned and rounded
// one after the other, and each error is compensated by the columns that are still to come.
//
// For the columns j in sweep order: q = w_j pruned and rounded, e = (w_j - q) / U_jj, and every later
// column k loses e * U_jk. U is the factor of hessian.h. Sources: sparsegpt.py and gptq.py (facts in the
// documentation of methods), mi.md for dynamic grids, row weights and block sparsities.
//
// Column indices are those of the matrices, never of the sweep, except inside InverseFactor.
// Rows are swept in tiles of fixed size, each by one thread: the same bytes for any number of threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "miq/base/thread_pool.h"
#include "miq/compress/hessian.h"
#include "miq/compress/quantizer.h"
#include "miq/formats/packed_matrix.h"

namespace miq {

// Static: grids are found once on the weights as given, a search for clips weighing errors as below; groups may lie anywhere (SparseGPT;
// `enhanced`; GPTQ's static groups).
// Dynamic: a group's grids are found when the sweep reaches it, on the updated, kept weights, with errors
// weighted by U_jj^-2; the columns of a group must follow each other in the sweep (`mi`, `mixed`, GPTQ groups).
enum class GridTiming { Static, Dynamic };

struct Pruning {
  enum class Kind {
    None,
    // Per block of columns and matrix, the floor(elements * sparsity) weights of least saliency; equal ones by position.
    Block,
    // SparseGPT's own rule: threshold = ascending(saliency)[int(elements * sparsity)], all at or below
    // it are pruned, so one more than asked for, and one per block even at sparsity 0.
    SparseGpt,
    // The n of least saliency in every m consecutive columns of a row.
    PatternNM,
    // The weights that SweepMatrix::kept says, chosen before.
    Given,
  };
  Kind kind = Kind::None;
  double sparsity = 0;  // Block, SparseGpt: in [0, 1)
  int n = 0, m = 0;     // PatternNM: 0 < n < m <= 64
};

struct SweepOptions {
  Pruning pruning;
  GridTiming timing = GridTiming::Static;
  std::span<const float> clips;       // ratios tried for each grid; empty: {1}
  std::int64_t block_columns = 128;   // dynamic grids: blocks of whole groups with at least this many columns
  bool automatic_scale_dtype = true;  // choose_scale_dtype(); false: F32 always
  int scale_bits = 0;                 // 4 to 8: coded scales (formats/scale_code.h), exponents from the weights as given; 0: none
};

// One matrix that reads the factor's input.
struct SweepMatrix {
  at::Tensor weights;              // [rows, n] float32, finite
  ColumnGroups groups;             // no groups: prune only
  std::vector<float> row_weights;  // [rows] f_r in the saliency, >= 0, or empty: 1
  // Pruning::Block: how many weights each block of sweep_blocks() loses (sparsity_plan.h); empty: by `sparsity`.
  std::vector<std::int64_t> pruned_of_block;
  std::vector<std::uint8_t> kept;      // Pruning::Given: [rows * n], 1 kept
};

struct SweepResult {
  at::Tensor values;               // [rows, n] float32: the new weights, as `packed` decodes
  PackedMatrix packed;             // quantizing only (rows is 0 otherwise); kept is empty when nothing was to be pruned
  std::vector<std::uint8_t> kept;  // pruning without quantization: [rows * n], 1 kept; else empty
  double loss = 0;                 // sum of (w - q)^2 / U_jj^2 / 2 in the unit of H: half of tr(D (H + damping) D^T)
  std::int64_t pruned = 0;         // weights pruned
};

// Solves all matrices, which share an input, with one factor; thresholds are each matrix's own.
// Throws UsageError on options that make no sense together (dynamic grids of groups that are not runs, an n:m
// pattern in an order that tears its columns apart), Error on weights that are not finite, shapes that do not fit, or
// results that are not finite (weights near the limits of float32). With DeadColumns::Zero in the factor, the dead
// columns' weights are zeroed after static grids were found.
std::vector<SweepResult> sweep(std::span<const SweepMatrix> matrices, const InverseFactor& factor, const SweepOptions& options,
                               ThreadPool& pool);

// The blocks that sweep() uses, as first positions in the sweep, and n at the end: every `block_columns`
// columns or, with dynamic grids, the fewest whole groups with that many. A threshold holds for one block.
std::vector<std::int64_t> sweep_blocks(const ColumnGroups& groups, std::span<const std::int64_t> order, GridTiming timing,
                                       std::int64_t block_columns = 128);

}  // namespace miq
