// The table of libmiq_cuda.so with loops on the CPU in place of kernels: the same functions of compress/*_steps.h and *_math.h, called for every
// block and thread in turn, phase by phase between barriers. What it cannot show is how many of them run at once.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "miq/base/cuda_table.h"
#include "miq/compress/information_math.h"
#include "miq/compress/sweep_steps.h"
#include "tests/reference/packed_emulation.h"

namespace miq::reference {

struct EmulatedSweep {
  const SweepLaunch& launch;

  template <typename Work>
  void for_tiles(const Work& work) const {
    for (std::int64_t tile = 0; tile < launch.first_tile[launch.jobs]; ++tile) {
      const int job = job_of_tile(launch, tile);
      work(launch.views[job], tile - launch.first_tile[job]);
    }
  }

  void score(std::int64_t block, std::int64_t first, std::int64_t width) {
    for_tiles([&](const SweepView& v, std::int64_t tile) {
      for (std::int64_t i = 0; searches(v, block) && i < width; ++i)
        for (int row = 0; row < kSweepRows; ++row) score_weight(v, tile, first, i, row);
    });
  }
  void count(std::int64_t block, std::int64_t width, int shift) {
    for_tiles([&](const SweepView& v, std::int64_t tile) {
      if (!searches(v, block)) return;
      for (std::int64_t i = 0; i < width; ++i) {
        for (int row = 0; row < kSweepRows && is_row(v, tile, row); ++row) {
          const int byte = byte_of_score(v.scores[score_place(v, tile, i, row)], v.threshold->prefix, shift);
          if (byte >= 0) ++v.counts[byte];
        }
      }
    });
  }
  void pick(std::int64_t block, int shift) {
    for (int job = 0; job < launch.jobs; ++job)
      if (searches(launch.views[job], block)) pick_byte(launch.views[job], block, shift);
  }
  void ties(std::int64_t block, std::int64_t width) {
    for_tiles([&](const SweepView& v, std::int64_t tile) {
      if (!searches(v, block)) return;
      v.ties[tile] = 0;
      for (int row = 0; row < kSweepRows; ++row) v.ties[tile] += ties_of_row(v, tile, width, row);
    });
  }
  void share(std::int64_t block) {
    for (int job = 0; job < launch.jobs; ++job)
      if (searches(launch.views[job], block)) share_ties(launch.views[job], launch.first_tile[job + 1] - launch.first_tile[job], block);
  }
  void apply(std::int64_t block, std::int64_t first, std::int64_t width) {
    for_tiles([&](const SweepView& v, std::int64_t tile) {
      if (!searches(v, block)) return;
      for (int row = 0; row < kSweepRows; ++row) apply_threshold(v, tile, first, width, row);
      keep_ties(v, tile, first, width);
    });
  }
  void sweep(std::int64_t first, std::int64_t last) {
    std::vector<float> shared(static_cast<std::size_t>((last - first) * kSweepRows));
    for_tiles([&](const SweepView& v, std::int64_t tile) {
      float* kept = v.errors + tile * v.stride * kSweepRows;
      const bool in_shared = tile % 2 == 0;  // both ways
      for (int row = 0; row < kSweepRows; ++row)
        sweep_row(v, tile, first, last, row, in_shared ? shared.data() : kept, in_shared ? kept : nullptr);
    });
  }
  void rest(std::int64_t first, std::int64_t last) {
    struct Sums {
      float values[4][4];
    };
    const std::int64_t width = last - first;
    for_tiles([&](const SweepView& v, std::int64_t tile) {
      for (std::int64_t begin = last; begin < v.cols; begin += kRestColumns) {
        RestTile shared;
        std::vector<Sums> sums(kRestThreads, Sums{});
        for (std::int64_t k = 0; k < width; k += kRestDepth) {
          for (int thread = 0; thread < kRestThreads; ++thread) load_rest(v, tile, first, width, begin, k, thread, shared);
          const int depths = static_cast<int>(width - k < kRestDepth ? width - k : kRestDepth);
          for (int thread = 0; thread < kRestThreads; ++thread) add_rest(thread, depths, shared, sums[static_cast<std::size_t>(thread)].values);
        }
        for (int thread = 0; thread < kRestThreads; ++thread) subtract_rest(v, tile, begin, thread, sums[static_cast<std::size_t>(thread)].values);
      }
    });
  }
};

inline const MiqCudaTable& emulated_cuda() {
  static const MiqCudaTable table = [] {
    MiqCudaTable t{};
    t.version = kMiqCudaVersion;
    t.problem = [] { return "none"; };
    t.devices = [](int* count, char* found, std::uint64_t capacity) {
      *count = 1;
      std::snprintf(found, capacity, "loops on the CPU");
      return 0;
    };
    t.sweep = [](int, const SweepLaunch* launch, const std::int64_t* blocks, std::int64_t count) {
      EmulatedSweep steps{*launch};
      run_sweep(*launch, blocks, count, steps);
      return 0;
    };
    t.gaussian_information = [](int, const void* h, int wide, const double* mean, const double* inverse, std::int64_t n, float* out, std::int32_t* bad) {
      for (std::int64_t i = 0; i < n; ++i) {
        out[i * n + i] = 0;
        for (std::int64_t j = i + 1; j < n; ++j) {
          const double product = wide ? static_cast<const double*>(h)[i * n + j] : static_cast<const float*>(h)[i * n + j];
          const double rho = correlation(product, mean[i], mean[j], inverse[i], inverse[j]);
          if (!std::isfinite(rho)) *bad = 1;
          out[i * n + j] = out[j * n + i] = static_cast<float>(information_of(rho));
        }
      }
      return 0;
    };
    t.binned_information = [](int, const std::uint8_t* bins, std::int64_t tokens, std::int64_t n, const double* count_logs,
                              const std::int32_t* occupied, const double* log_table, float* out) {
      for (std::int64_t i = 0; i < n; ++i) {
        out[i * n + i] = 0;
        for (std::int64_t j = i + 1; j < n; ++j) {
          std::uint32_t counts[kBinsOfChannel * kBinsOfChannel] = {};
          for (std::int64_t k = 0; k < tokens; ++k) ++counts[bins[i * tokens + k] * kBinsOfChannel + bins[j * tokens + k]];
          out[i * n + j] = out[j * n + i] = static_cast<float>(
              binned_information_of(counts, log_table, tokens, count_logs[i], count_logs[j], occupied[i], occupied[j]));
        }
      }
      return 0;
    };
    t.packed_product = packed_table().packed_product;
    t.packed_decode = packed_table().packed_decode;
    return t;
  }();
  return table;
}

}  // namespace miq::reference
