// The sweep on the CPU. A unit of work is one tile of 64 rows and one block of columns:
//
//   1. mask of the block's weights at or below the threshold, which was found over all tiles of the matrix
//   2. column after column: subtract the errors of the block's earlier columns times U, prune, round, keep
//      the error (columns look back, so each weight is written once; the operations are those of sparsegpt.py
//      in the same order)
//   3. subtract errors * U from all columns after the block
//   4. saliencies of the next block, with a histogram of their upper bits, for the next threshold
//
// Only thresholds need all tiles to meet between blocks; otherwise a unit sweeps all blocks of its tile.
#include <algorithm>
#include <cstring>
#include <limits>

#include "miq/compress/row_tile.h"
#include "miq/compress/sweep_engine.h"
#include "miq/compress/sweep_math.h"
#include "miq/compress/tile_columns.h"

#define MIQ_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))

namespace miq {
namespace {

MIQ_CLONES void score_column(const float* weights, float d, const float* row_weights, float* scores) {
  for (int r = 0; r < kTileRows; ++r) scores[r] = saliency(weights[r], d, row_weights[r]);
}

MIQ_CLONES void mask_column(const std::uint8_t* kept, const float* weights, float* values) {
  for (int r = 0; r < kTileRows; ++r) values[r] = kept[r] ? weights[r] : 0.0f;
}

MIQ_CLONES void keep_above(const float* scores, float threshold, std::uint8_t* kept) {
  for (int r = 0; r < kTileRows; ++r) kept[r] = scores[r] <= threshold ? 0 : 1;
}

// Sums squares row by row and then the rows, in a fixed order.
MIQ_CLONES double half_of_squares(const float* errors, std::int64_t width, std::int64_t rows) {
  double sums[kTileRows] = {};
  for (std::int64_t k = 0; k < width; ++k) {
    for (int r = 0; r < kTileRows; ++r) sums[r] += static_cast<double>(errors[k * kTileRows + r]) * errors[k * kTileRows + r];
  }
  double total = 0;
  for (std::int64_t r = 0; r < rows; ++r) total += sums[r];
  return total / 2;
}

// What the threads of one run share about one job's thresholds.
constexpr int kBins = 2048, kBinShift = 20;  // the upper 11 bits of a positive float
struct Thresholds {
  std::vector<float> scores;              // [tiles][largest block][64]
  std::vector<std::uint32_t> histograms;  // [tiles][kBins]
  std::vector<std::int64_t> ties;         // [tiles] how many at the threshold to prune
  float threshold = 0;
  bool none = false;
};

std::int64_t largest_block(const SweepJob& job) {
  std::int64_t largest = 0;
  for (std::size_t b = 0; b + 1 < job.blocks.size(); ++b) largest = std::max(largest, job.blocks[b + 1] - job.blocks[b]);
  return largest;
}

std::int64_t rows_of_tile(const SweepJob& job, std::int64_t tile) { return std::min(kTileRows, job.rows - tile * kTileRows); }

int bin_of(float score) {
  std::uint32_t bits;
  memcpy(&bits, &score, sizeof bits);
  return static_cast<int>((bits & 0x7fffffffu) >> kBinShift);
}

void score_block(const SweepJob& job, std::int64_t tile, std::size_t block, Thresholds& thresholds) {
  const std::int64_t first = job.blocks[block], width = job.blocks[block + 1] - first, rows = rows_of_tile(job, tile);
  float* scores = thresholds.scores.data() + tile * largest_block(job) * kTileRows;
  std::uint32_t* histogram = thresholds.histograms.data() + tile * kBins;
  std::fill_n(histogram, kBins, 0u);
  for (std::int64_t i = 0; i < width; ++i) {
    const std::int64_t column = first + i;
    score_column(&job.weights[(tile * job.cols + column) * kTileRows], job.lower[column * job.cols + column],
                 &job.row_weights[tile * kTileRows], scores + i * kTileRows);
    for (std::int64_t r = 0; r < rows; ++r) ++histogram[bin_of(scores[i * kTileRows + r])];
  }
}

// The score of rank `rank` over all tiles, and how many equal to it each tile prunes (in the order of tiles).
void select_threshold(const SweepJob& job, std::size_t block, Thresholds& thresholds) {
  const std::int64_t rank = job.rank_of_block[block], width = job.blocks[block + 1] - job.blocks[block],
                     stride = largest_block(job) * kTileRows;
  thresholds.none = rank < 0;
  if (thresholds.none) return;
  std::vector<std::int64_t> counts(kBins);
  for (std::int64_t tile = 0; tile < job.tiles; ++tile)
    for (int bin = 0; bin < kBins; ++bin) counts[bin] += thresholds.histograms[tile * kBins + bin];
  std::int64_t below = 0;
  int bin = 0;
  while (below + counts[bin] <= rank) below += counts[bin++];

  std::vector<float> candidates;
  std::vector<std::size_t> ends(job.tiles);
  for (std::int64_t tile = 0; tile < job.tiles; ++tile) {
    const float* scores = thresholds.scores.data() + tile * stride;
    if (thresholds.histograms[tile * kBins + bin]) {
      const std::int64_t rows = rows_of_tile(job, tile);
      for (std::int64_t i = 0; i < width; ++i) {
        for (std::int64_t r = 0; r < rows; ++r)
          if (bin_of(scores[i * kTileRows + r]) == bin) candidates.push_back(scores[i * kTileRows + r]);
      }
    }
    ends[tile] = candidates.size();
  }
  std::vector<float> sorted = candidates;
  std::nth_element(sorted.begin(), sorted.begin() + (rank - below), sorted.end());
  thresholds.threshold = sorted[rank - below];
  std::int64_t left = rank + 1 - below;
  for (float score : candidates) left -= score < thresholds.threshold;
  std::size_t at = 0;
  for (std::int64_t tile = 0; tile < job.tiles; ++tile) {
    std::int64_t here = 0;
    for (; at < ends[tile]; ++at) here += candidates[at] == thresholds.threshold;
    thresholds.ties[tile] = job.prune_ties ? here : std::min(here, left);
    left -= thresholds.ties[tile];
  }
}

void apply_threshold(SweepJob& job, std::int64_t tile, std::size_t block, const Thresholds& thresholds) {
  if (thresholds.none) return;
  const std::int64_t first = job.blocks[block], width = job.blocks[block + 1] - first, rows = rows_of_tile(job, tile);
  const float* scores = thresholds.scores.data() + tile * largest_block(job) * kTileRows;
  std::uint8_t* kept = &job.kept[(tile * job.cols + first) * kTileRows];
  for (std::int64_t i = 0; i < width; ++i) keep_above(scores + i * kTileRows, thresholds.threshold, kept + i * kTileRows);
  if (job.prune_ties) return;
  std::int64_t ties = 0;
  for (std::int64_t i = 0; i < width; ++i) {
    for (std::int64_t r = 0; r < rows; ++r) {
      if (scores[i * kTileRows + r] == thresholds.threshold && ++ties > thresholds.ties[tile]) kept[i * kTileRows + r] = 1;
    }
  }
}

// Prunes the n least salient of columns begin … end-1 of the tile in each row.
void prune_pattern(SweepJob& job, std::int64_t tile, std::int64_t begin, std::int64_t end) {
  float scores[64][kTileRows];
  const std::int64_t width = end - begin, count = width < job.m ? job.n * width / job.m : job.n;
  const std::int64_t at = (tile * job.cols + begin) * kTileRows;
  for (std::int64_t i = 0; i < width; ++i) {
    const std::int64_t column = begin + i;
    score_column(&job.weights[at + i * kTileRows], job.lower[column * job.cols + column], &job.row_weights[tile * kTileRows], scores[i]);
  }
  for (int r = 0; r < kTileRows; ++r) {
    for (std::int64_t taken = 0; taken < count; ++taken) {
      std::int64_t least = -1;
      for (std::int64_t i = 0; i < width; ++i) {
        if (job.kept[at + i * kTileRows + r] && (least < 0 || scores[i][r] < scores[least][r])) least = i;
      }
      job.kept[at + least * kTileRows + r] = 0;
    }
  }
}

// One thread's buffers.
struct Scratch {
  std::vector<float> errors;        // [largest block][64]
  std::vector<std::int64_t> ready;  // [largest block] errors already subtracted from a column
  std::vector<std::int64_t> columns;
  std::vector<float> grids;
};

void sweep_block(SweepJob& job, std::int64_t tile, std::size_t block, Scratch& scratch) {
  const std::int64_t first = job.blocks[block], last = job.blocks[block + 1], width = last - first;
  float* weights = &job.weights[tile * job.cols * kTileRows];
  std::uint8_t* kept = job.kept.empty() ? nullptr : &job.kept[tile * job.cols * kTileRows];
  float* errors = scratch.errors.data();
  std::fill_n(scratch.ready.begin(), width, 0);
  const auto bring_up = [&](std::int64_t column, std::int64_t i) {
    std::int64_t& ready = scratch.ready[column - first];
    if (ready < i) subtract_columns(errors, job.lower + column * job.cols + first, ready, i, weights + column * kTileRows);
    ready = std::max(ready, i);
  };
  for (std::int64_t i = 0; i < width; ++i) {
    const std::int64_t column = first + i;
    if (job.m && i % job.m == 0) {
      const std::int64_t end = std::min(column + job.m, last);
      for (std::int64_t k = column; k < end; ++k) bring_up(k, i);
      prune_pattern(job, tile, column, end);
    }
    if (job.dynamic && (column == 0 || job.group_of[column] != job.group_of[column - 1])) {
      scratch.columns.clear();
      const std::int64_t group = job.group_of[column], at = (tile * job.groups + group) * kTileRows;
      for (std::int64_t k = column; k < last && job.group_of[k] == group; ++k) {
        bring_up(k, i);
        scratch.columns.push_back(k);
      }
      find_grids(weights, kept, scratch.columns, 
                 {job.max_codes[group], job.half, job.clips, job.column_weights.data(), job.scale_bits, job.exponents_of(tile)},
                 scratch.grids, &job.scales[at], &job.zeros[at]);
    }
    bring_up(column, i);
    float* weight = weights + column * kTileRows;
    const std::uint8_t* mask = kept ? kept + column * kTileRows : nullptr;
    float values[kTileRows];
    if (job.groups) {
      const std::int64_t group = job.group_of[column], at = (tile * job.groups + group) * kTileRows;
      round_column(weight, mask, &job.scales[at], &job.zeros[at], job.max_codes[group], values,
                   &job.codes[(tile * job.cols + column) * kTileRows]);
    } else if (mask) {
      mask_column(mask, weight, values);
    } else {
      std::copy_n(weight, kTileRows, values);
    }
    error_column(weight, values, job.lower[column * job.cols + column], errors + i * kTileRows);
    std::copy_n(values, kTileRows, weight);
  }
  job.losses[tile] += half_of_squares(errors, width, rows_of_tile(job, tile));
  if (last < job.cols)
    subtract_product(errors, width, job.lower + last * job.cols + first, job.cols, job.cols - last, weights + last * kTileRows);
}

}  // namespace

void sweep_on_cpu(std::vector<SweepJob>& jobs, ThreadPool& pool) {
  std::vector<Thresholds> thresholds(jobs.size());
  std::vector<std::pair<std::size_t, std::int64_t>> units;
  std::size_t phases = 1;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    SweepJob& job = jobs[i];
    for (std::int64_t tile = 0; tile < job.tiles; ++tile) units.emplace_back(i, tile);
    if (job.rank_of_block.empty()) continue;
    phases = std::max(phases, job.blocks.size() - 1);
    thresholds[i].scores.resize(job.tiles * largest_block(job) * kTileRows);
    thresholds[i].histograms.resize(job.tiles * kBins);
    thresholds[i].ties.resize(job.tiles);
  }
  const auto for_units = [&](const auto& work) {
    pool.for_each(static_cast<std::int64_t>(units.size()), [&](std::int64_t unit) { work(units[unit].first, units[unit].second); });
  };
  for_units([&](std::size_t i, std::int64_t tile) {
    if (!jobs[i].rank_of_block.empty() && jobs[i].blocks.size() > 1) score_block(jobs[i], tile, 0, thresholds[i]);
  });
  for (std::size_t phase = 0; phase < phases; ++phase) {
    pool.for_each(static_cast<std::int64_t>(jobs.size()), [&](std::int64_t i) {
      if (phase < jobs[i].rank_of_block.size()) select_threshold(jobs[i], phase, thresholds[i]);
    });
    for_units([&](std::size_t i, std::int64_t tile) {
      SweepJob& job = jobs[i];
      Scratch scratch;
      scratch.errors.resize(largest_block(job) * kTileRows);
      scratch.ready.resize(largest_block(job));
      const std::size_t blocks = job.blocks.size() - 1;
      if (job.rank_of_block.empty()) {
        if (phase == 0)
          for (std::size_t block = 0; block < blocks; ++block) sweep_block(job, tile, block, scratch);
      } else if (phase < blocks) {
        apply_threshold(job, tile, phase, thresholds[i]);
        sweep_block(job, tile, phase, scratch);
        if (phase + 1 < blocks) score_block(job, tile, phase + 1, thresholds[i]);
      }
    });
  }
}

}  // namespace miq
