// Internal to the solver: what the kernels of the sweep see of a job (sweep_job.h), on a device or, in tests, on the CPU. C++17, because nvcc
// compiles it.
//
// Matrices that share an input, a factor and the blocks of columns are swept by one launch: their tiles follow each other.
#pragma once

#include <cstdint>

namespace miq {

// Where the search for a block's threshold stands: the bytes found so far, and how many scores are below them.
struct SweepThreshold {
  std::int64_t below;
  std::uint32_t prefix;
  std::uint32_t unused;
};

struct SweepView {
  std::int64_t rows, cols, groups, clips;
  std::int64_t stride;  // columns of the largest block
  bool dynamic, half, prune_ties;
  int n, m, scale_bits;
  float *weights, *scales, *zeros;
  float *errors, *scores;  // [tiles][stride][64]
  const float *lower, *max_codes, *clip_ratios, *column_weights, *row_weights;
  const std::uint32_t* exponents;  // [tiles][64], where scales are coded
  std::uint8_t *codes, *kept;      // kept: null when nothing is to be pruned
  const std::uint16_t* group_of;
  const std::int64_t* group_start;  // [cols] first column of the group's run; dynamic grids alone
  double* losses;                   // [tiles][64], sums of squared errors
  // Thresholds; null without.
  const std::int64_t* rank_of_block;
  std::uint32_t* counts;      // [256], zero between searches
  SweepThreshold* threshold;  // zero between searches
  std::int64_t *ties, *quota;  // [tiles] scores at the threshold; how many of them go
};

constexpr int kMostSweepJobs = 8;
struct SweepLaunch {
  int jobs;
  bool thresholds;  // some job has them
  std::int64_t first_tile[kMostSweepJobs + 1];
  SweepView views[kMostSweepJobs];
};

}  // namespace miq
