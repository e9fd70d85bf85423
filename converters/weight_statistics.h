// Inside the room: the figures of one matrix from which recognise.h draws its guesses.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "miq/base/thread_pool.h"
#include "miq/formats/tensor.h"

namespace miq {

struct WeightStatistics {
  static constexpr std::int64_t kBlock = 128;                    // SparseGPT's block of input channels
  static constexpr std::array<std::int64_t, 3> kRuns{4, 8, 16};  // the m of n:m

  std::int64_t rows = 0, cols = 0, zeros = 0;
  std::int64_t row_zeros_min = 0, row_zeros_max = 0;
  // Whole blocks of kBlock columns: how many, and the fewest and most zeros of one.
  std::int64_t blocks = 0, block_zeros_min = 0, block_zeros_max = 0;
  // Whole runs of m columns: the fewest zeros of one, and how many runs.
  std::array<std::int64_t, 3> run_zeros_min{}, runs{};
  // The smallest magnitude that is not zero over the 1 % quantile of those magnitudes: near 1 at an edge.
  double edge = 0;

  // Runs of kPalette columns in the first rows: the most different values in one, and the mean share of weights
  // that are not zero. 0 where no run was looked at.
  static constexpr std::int64_t kPalette = 32;
  std::int64_t palette_max = 0;
  double palette_filled = 0;

  // Where the weights lie on a lattice; of a large matrix that is not packed, only this many rows are searched.
  bool lattice = false;
  std::int64_t lattice_rows = 0;
  std::string bits;     // "4", "3+4+6+8"
  std::string sharing;  // "row", "groups of 32", "mixed"
  double pruned = 0;    // share of weights that are zero though rounding does not explain it: an estimate on a lattice
};

// Of a matrix [rows, cols] of F32, F16 or BF16; nothing for another tensor. A lattice is searched for, unless
// the tensor is packed and shows its own.
std::optional<WeightStatistics> weight_statistics(const Tensor& tensor, const std::string& name, ThreadPool& pool);

}  // namespace miq
