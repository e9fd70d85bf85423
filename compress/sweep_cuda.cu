// The sweep on a GPU: the steps of sweep_cpu.cc as kernels, with the same operations on every weight in the same
// order (no fused multiply-add: see cmake/Cuda.cmake), so the codes and masks are those of the CPU.
//
// One thread block of 64 threads is one tile of 64 rows, one thread a row; a tile's columns are swept in
// that block, its errors in shared memory where they fit. The update of the columns after the block is a tiled
// product over a grid of (tile, 64 columns). Thresholds are found by four passes of counting the bytes of the
// saliencies, highest byte first; the host picks a byte after each pass.
//
// C++17 and the CUDA runtime only.
#include <cuda_runtime.h>

#include <algorithm>
#include <string>
#include <vector>

#include "miq/base/error.h"
#include "miq/compress/sweep_cuda_engine.h"
#include "miq/compress/sweep_math.h"

namespace miq {
namespace {

constexpr int kRows = static_cast<int>(kTileRows);
constexpr std::size_t kSharedBytes = 48 * 1024;

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw Error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status) +
              ". Run without --device cuda, or free memory on the device");
}

// Device memory of `count` elements, owned.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t count) : count_(count) {
    if (count > 0) check(cudaMalloc(&data_, count * sizeof(T)), "allocating memory");
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { upload(values.data()); }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return static_cast<T*>(data_); }
  void upload(const T* values) {
    if (count_ > 0) check(cudaMemcpy(data_, values, count_ * sizeof(T), cudaMemcpyHostToDevice), "copying to the device");
  }
  void download(T* values) const {
    if (count_ > 0) check(cudaMemcpy(values, data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), "copying from the device");
  }
  void clear() {
    if (count_ > 0) check(cudaMemset(data_, 0, count_ * sizeof(T)), "clearing memory");
  }

 private:
  std::size_t count_;
  void* data_ = nullptr;
};

// What kernels see of a job; arrays as in sweep_job.h.
struct View {
  std::int64_t rows, cols, groups, clips;
  bool dynamic, half, prune_ties;
  int n, m, scale_bits;
  const std::uint32_t* exponents;  // [tiles][64], where scales are coded
  float *weights, *scales, *zeros, *errors, *scores;
  const float *lower, *max_codes, *clip_ratios, *column_weights, *row_weights;
  std::uint8_t *codes, *kept;  // kept: null when nothing is to be pruned
  const std::uint16_t* group_of;
  const std::int64_t* group_start;  // [cols] first column of the group's run
  double* losses;                   // [tiles][64]
  std::int64_t stride;              // columns of the largest block
};

__device__ float& weight_at(const View& v, std::int64_t tile, std::int64_t column, int row) {
  return v.weights[(tile * v.cols + column) * kRows + row];
}
__device__ float diagonal_at(const View& v, std::int64_t column) { return v.lower[column * v.cols + column]; }

// ---- thresholds -------------------------------------------------------------------------------------

__global__ void score_block(View v, std::int64_t first, std::int64_t width) {
  const std::int64_t tile = blockIdx.x;
  const int row = threadIdx.x;
  for (std::int64_t i = blockIdx.y; i < width; i += gridDim.y) {
    const float score = saliency(weight_at(v, tile, first + i, row), diagonal_at(v, first + i), v.row_weights[tile * kRows + row]);
    v.scores[(tile * v.stride + i) * kRows + row] = score;
  }
}

// Counts the byte at `shift` of all scores whose higher bits are those of `prefix`.
__global__ void count_bytes(View v, std::int64_t width, unsigned prefix, int shift, unsigned* counts) {
  __shared__ unsigned local[256];
  for (int i = threadIdx.x; i < 256; i += blockDim.x) local[i] = 0;
  __syncthreads();
  const std::int64_t tile = blockIdx.x;
  const int row = threadIdx.x;
  if (tile * kRows + row < v.rows) {
    for (std::int64_t i = blockIdx.y; i < width; i += gridDim.y) {
      const unsigned bits = __float_as_uint(v.scores[(tile * v.stride + i) * kRows + row]) & 0x7fffffffu;
      if (shift == 24 || (bits >> (shift + 8)) == (prefix >> (shift + 8))) atomicAdd(&local[(bits >> shift) & 255u], 1u);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 256; i += blockDim.x)
    if (local[i]) atomicAdd(&counts[i], local[i]);
}

__global__ void count_ties(View v, std::int64_t width, float threshold, unsigned* ties) {
  const std::int64_t tile = blockIdx.x;
  const int row = threadIdx.x;
  unsigned count = 0;
  if (tile * kRows + row < v.rows) {
    for (std::int64_t i = 0; i < width; ++i) count += v.scores[(tile * v.stride + i) * kRows + row] == threshold;
  }
  if (count) atomicAdd(&ties[tile], count);
}

// Prunes what is at or below the threshold; of the equal ones only the tile's first quota[tile], by column and row.
__global__ void apply_threshold(View v, std::int64_t first, std::int64_t width, float threshold, const unsigned* quota) {
  const std::int64_t tile = blockIdx.x;
  const int row = threadIdx.x;
  for (std::int64_t i = 0; i < width; ++i) {
    const float score = v.scores[(tile * v.stride + i) * kRows + row];
    v.kept[(tile * v.cols + first + i) * kRows + row] = score <= threshold ? 0 : 1;
  }
  if (!quota) return;
  __syncthreads();
  if (row != 0) return;
  const std::int64_t rows = v.rows - tile * kRows < kRows ? v.rows - tile * kRows : kRows;
  unsigned ties = 0;
  for (std::int64_t i = 0; i < width; ++i) {
    for (int r = 0; r < rows; ++r) {
      if (v.scores[(tile * v.stride + i) * kRows + r] == threshold && ++ties > quota[tile])
        v.kept[(tile * v.cols + first + i) * kRows + r] = 1;
    }
  }
}

// ---- the sweep of one block -------------------------------------------------------------------------

// Subtracts from a weight the errors begin … end-1 of its row (counted from the block's first column).
__device__ void bring_up(const View& v, std::int64_t tile, std::int64_t first, std::int64_t column, std::int64_t begin, std::int64_t end,
                         const float* errors, int row) {
  float w = weight_at(v, tile, column, row);
  const float* factors = v.lower + column * v.cols + first;
  for (std::int64_t k = begin; k < end; ++k) w -= errors[k * kRows + row] * factors[k];
  weight_at(v, tile, column, row) = w;
}

// Prunes the n least salient of columns begin … end-1 in this row.
__device__ void prune_pattern(const View& v, std::int64_t tile, std::int64_t begin, std::int64_t end, int row) {
  const std::int64_t width = end - begin, count = width < v.m ? v.n * width / v.m : v.n;
  const float f = v.row_weights[tile * kRows + row];
  for (std::int64_t taken = 0; taken < count; ++taken) {
    std::int64_t least = -1;
    float least_score = 0;
    for (std::int64_t k = begin; k < end; ++k) {
      if (!v.kept[(tile * v.cols + k) * kRows + row]) continue;
      const float score = saliency(weight_at(v, tile, k, row), diagonal_at(v, k), f);
      if (least < 0 || score < least_score) {
        least = k;
        least_score = score;
      }
    }
    v.kept[(tile * v.cols + least) * kRows + row] = 0;
  }
}

__device__ float kept_weight(const View& v, std::int64_t tile, std::int64_t column, int row) {
  if (v.kept && !v.kept[(tile * v.cols + column) * kRows + row]) return 0;
  return weight_at(v, tile, column, row);
}

// The grid of this row for columns begin … end-1: find_grids() of row_tile.cc.
__device__ void find_grid(const View& v, std::int64_t tile, std::int64_t begin, std::int64_t end, std::int64_t group, int row) {
  float low = 0, high = 0;
  for (std::int64_t k = begin; k < end; ++k) {
    const float w = kept_weight(v, tile, k, row);
    low = w < low ? w : low;
    high = w > high ? w : high;
  }
  const float max_code = v.max_codes[group];
  const std::uint32_t exponent = v.scale_bits ? v.exponents[tile * kRows + row] : 0;
  const auto scale_of = [&](float clip) {
    return v.scale_bits ? coded_grid_scale(low, high, clip, max_code, v.scale_bits, exponent) : grid_scale(low, high, clip, max_code, v.half);
  };
  const auto zero_of = [&](float clip, float scale) {
    return v.scale_bits ? coded_grid_zero(low, high, max_code) : grid_zero(low, high, clip, max_code, scale);
  };
  float best_scale = scale_of(v.clip_ratios[0]), best_zero = zero_of(v.clip_ratios[0], best_scale);
  float best = INFINITY;
  for (std::int64_t c = 0; c < v.clips && v.clips > 1; ++c) {
    const float scale = scale_of(v.clip_ratios[c]);
    float zero = zero_of(v.clip_ratios[c], scale);
    for (int side = 0; side < (tries_both_zeros(max_code) ? 2 : 1); ++side, zero = max_code - zero) {
      float error = 0;
      for (std::int64_t k = begin; k < end; ++k) {
        const float w = kept_weight(v, tile, k, row);
        const float difference = code_value(nearest_code(w, scale, zero, max_code), scale, zero) - w;
        error += v.column_weights[k] * (difference * difference);
      }
      if (error < best) {
        best = error;
        best_scale = scale;
        best_zero = zero;
      }
    }
  }
  v.scales[(tile * v.groups + group) * kRows + row] = best_scale;
  v.zeros[(tile * v.groups + group) * kRows + row] = best_zero;
}

__global__ void sweep_block(View v, std::int64_t first, std::int64_t last, bool in_shared) {
  extern __shared__ float shared_errors[];
  const std::int64_t tile = blockIdx.x, width = last - first;
  const int row = threadIdx.x;
  float* global_errors = v.errors + tile * v.stride * kRows;
  float* errors = in_shared ? shared_errors : global_errors;
  double loss = 0;
  // Rows do not depend on each other, so threads need not wait for each other either. A column was last brought up
  // at the start of its n:m set or of its group, whichever is later.
  for (std::int64_t i = 0; i < width; ++i) {
    const std::int64_t column = first + i;
    const std::int64_t set_start = v.m ? i - i % v.m : 0;
    if (v.m && i == set_start) {
      const std::int64_t end = column + v.m < last ? column + v.m : last;
      for (std::int64_t k = column; k < end; ++k) {
        const std::int64_t group_start = v.dynamic ? v.group_start[k] - first : 0;
        bring_up(v, tile, first, k, group_start < i ? group_start : 0, i, errors, row);
      }
      prune_pattern(v, tile, column, end, row);
    }
    const std::int64_t group_start = v.dynamic ? v.group_start[column] - first : 0;
    if (v.dynamic && i == group_start) {
      const std::int64_t group = v.group_of[column];
      std::int64_t end = column;
      for (; end < last && v.group_start[end] == column; ++end) {
        const std::int64_t set = v.m ? (end - first) - (end - first) % v.m : 0;
        bring_up(v, tile, first, end, set <= i ? set : 0, i, errors, row);
      }
      find_grid(v, tile, column, end, group, row);
    }
    bring_up(v, tile, first, column, set_start > group_start ? set_start : group_start, i, errors, row);

    const std::int64_t at = (tile * v.cols + column) * kRows + row;
    const bool kept = !v.kept || v.kept[at];
    const float w = v.weights[at];
    float value = kept ? w : 0.0f;
    if (v.groups) {
      const std::int64_t group = v.group_of[column], grid = (tile * v.groups + group) * kRows + row;
      const float code = nearest_code(w, v.scales[grid], v.zeros[grid], v.max_codes[group]);
      value = kept ? code_value(code, v.scales[grid], v.zeros[grid]) : 0.0f;
      v.codes[at] = kept ? static_cast<std::uint8_t>(code) : std::uint8_t{0};
    }
    const float error = (w - value) / diagonal_at(v, column);
    errors[i * kRows + row] = error;
    if (in_shared) global_errors[i * kRows + row] = error;
    loss += static_cast<double>(error) * error;
    v.weights[at] = value;
  }
  v.losses[tile * kRows + row] += loss;
}

// weights[j] -= sum over k of errors[k] * lower[j][k] for 64 rows and 64 columns a thread block; each of 16 x 16 threads
// holds 4 x 4 sums.
__global__ void update_rest(View v, std::int64_t first, std::int64_t last) {
  constexpr int kDepth = 16;
  __shared__ float errors[kDepth][kRows], factors[kDepth][64 + 1];
  const std::int64_t tile = blockIdx.x, begin = last + static_cast<std::int64_t>(blockIdx.y) * 64, width = last - first;
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  float sums[4][4] = {};
  for (std::int64_t k = 0; k < width; k += kDepth) {
    for (int i = threadIdx.x; i < kDepth * kRows; i += 256) {
      const int depth = i / kRows, row = i % kRows;
      errors[depth][row] = k + depth < width ? v.errors[(tile * v.stride + k + depth) * kRows + row] : 0.0f;
    }
    for (int i = threadIdx.x; i < kDepth * 64; i += 256) {
      const int depth = i % kDepth, column = i / kDepth;
      factors[depth][column] = k + depth < width && begin + column < v.cols ? v.lower[(begin + column) * v.cols + first + k + depth] : 0.0f;
    }
    __syncthreads();
    for (int depth = 0; depth < kDepth && k + depth < width; ++depth) {
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) sums[i][j] += errors[depth][x + 16 * i] * factors[depth][y + 16 * j];
    }
    __syncthreads();
  }
  for (int j = 0; j < 4; ++j) {
    const std::int64_t column = begin + y + 16 * j;
    if (column >= v.cols) continue;
    for (int i = 0; i < 4; ++i) weight_at(v, tile, column, x + 16 * i) -= sums[i][j];
  }
}

// ---- host -------------------------------------------------------------------------------------------

dim3 tiles_by_columns(const SweepJob& job, std::int64_t width) {
  return dim3(static_cast<unsigned>(job.tiles), static_cast<unsigned>(std::min<std::int64_t>(std::max<std::int64_t>(width, 1), 32)));
}

// Finds and applies the threshold of a block: the score of the given rank over all tiles.
void prune_block(const SweepJob& job, const View& v, std::int64_t first, std::int64_t last, std::int64_t rank,
                 DeviceArray<unsigned>& counts, DeviceArray<unsigned>& ties) {
  if (rank < 0) return;
  const std::int64_t width = last - first;
  score_block<<<tiles_by_columns(job, width), kRows>>>(v, first, width);
  unsigned prefix = 0;
  std::int64_t below = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    std::vector<unsigned> host(256);
    counts.clear();
    count_bytes<<<tiles_by_columns(job, width), kRows>>>(v, width, prefix, shift, counts.data());
    check(cudaGetLastError(), "counting saliencies");
    counts.download(host.data());
    unsigned byte = 0;
    while (byte < 255 && below + host[byte] <= rank) below += host[byte++];
    prefix |= byte << shift;
  }
  float threshold;
  memcpy(&threshold, &prefix, sizeof threshold);
  if (!job.prune_ties) {
    std::vector<unsigned> quota(job.tiles);
    ties.clear();
    count_ties<<<static_cast<unsigned>(job.tiles), kRows>>>(v, width, threshold, ties.data());
    ties.download(quota.data());
    std::int64_t left = rank + 1 - below;
    for (unsigned& tile : quota) {
      tile = static_cast<unsigned>(std::min<std::int64_t>(tile, left));
      left -= tile;
    }
    ties.upload(quota.data());
  }
  apply_threshold<<<static_cast<unsigned>(job.tiles), kRows>>>(v, first, width, threshold, job.prune_ties ? nullptr : ties.data());
  check(cudaGetLastError(), "pruning");
}

std::vector<std::int64_t> starts_of_groups(const SweepJob& job) {
  std::vector<std::int64_t> starts(job.dynamic ? job.cols : 0);
  for (std::size_t k = 1; k < starts.size(); ++k)
    starts[k] = job.group_of[k] == job.group_of[k - 1] ? starts[k - 1] : static_cast<std::int64_t>(k);
  return starts;
}

void sweep_one(SweepJob& job, const DeviceArray<float>& lower) {
  std::int64_t stride = 0;
  for (std::size_t b = 0; b + 1 < job.blocks.size(); ++b) stride = std::max(stride, job.blocks[b + 1] - job.blocks[b]);
  const std::size_t work = static_cast<std::size_t>(job.tiles * stride * kRows);
  DeviceArray<float> weights(job.weights), scales(job.scales), zeros(job.zeros), errors(work), scores(job.rank_of_block.empty() ? 0 : work);
  DeviceArray<float> max_codes(job.max_codes), clips(job.clips), column_weights(job.column_weights), row_weights(job.row_weights);
  DeviceArray<std::uint8_t> codes(job.codes), kept(job.kept);
  DeviceArray<std::uint16_t> group_of(job.group_of);
  DeviceArray<std::uint32_t> exponents(job.exponents);
  DeviceArray<std::int64_t> group_start(starts_of_groups(job));
  DeviceArray<double> losses(static_cast<std::size_t>(job.tiles * kRows));
  DeviceArray<unsigned> counts(256), ties(static_cast<std::size_t>(job.tiles));
  losses.clear();

  View v{};
  v.rows = job.rows;
  v.cols = job.cols;
  v.groups = job.groups;
  v.clips = static_cast<std::int64_t>(job.clips.size());
  v.dynamic = job.dynamic;
  v.half = job.half;
  v.scale_bits = job.scale_bits;
  v.exponents = exponents.data();
  v.prune_ties = job.prune_ties;
  v.n = job.n;
  v.m = job.m;
  v.weights = weights.data();
  v.scales = scales.data();
  v.zeros = zeros.data();
  v.errors = errors.data();
  v.scores = scores.data();
  v.lower = lower.data();
  v.max_codes = max_codes.data();
  v.clip_ratios = clips.data();
  v.column_weights = column_weights.data();
  v.row_weights = row_weights.data();
  v.codes = codes.data();
  v.kept = kept.data();
  v.group_of = group_of.data();
  v.group_start = group_start.data();
  v.losses = losses.data();
  v.stride = stride;

  for (std::size_t b = 0; b + 1 < job.blocks.size(); ++b) {
    const std::int64_t first = job.blocks[b], last = job.blocks[b + 1];
    if (!job.rank_of_block.empty()) prune_block(job, v, first, last, job.rank_of_block[b], counts, ties);
    const std::size_t bytes = static_cast<std::size_t>(last - first) * kRows * sizeof(float);
    const bool in_shared = bytes <= kSharedBytes;
    sweep_block<<<static_cast<unsigned>(job.tiles), kRows, in_shared ? bytes : 0>>>(v, first, last, in_shared);
    check(cudaGetLastError(), "sweeping a block");
    if (last < job.cols) {
      update_rest<<<dim3(static_cast<unsigned>(job.tiles), static_cast<unsigned>((job.cols - last + 63) / 64)), 256>>>(v, first, last);
      check(cudaGetLastError(), "updating columns");
    }
  }
  check(cudaDeviceSynchronize(), "sweeping");
  weights.download(job.weights.data());
  kept.download(job.kept.data());
  codes.download(job.codes.data());
  scales.download(job.scales.data());
  zeros.download(job.zeros.data());
  std::vector<double> row_losses(static_cast<std::size_t>(job.tiles * kRows));
  losses.download(row_losses.data());
  for (std::int64_t row = 0; row < job.rows; ++row) job.losses[row / kRows] += row_losses[row] / 2;
}

}  // namespace

std::string cuda_engine_problem() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess) return std::string("no usable CUDA device: ") + cudaGetErrorString(status);
  return devices > 0 ? std::string() : "no CUDA device is present";
}

void sweep_on_cuda(std::vector<SweepJob>& jobs) {
  for (std::size_t i = 0; i < jobs.size();) {
    const std::size_t size = static_cast<std::size_t>(jobs[i].cols * jobs[i].cols);
    DeviceArray<float> lower(size);
    lower.upload(jobs[i].lower);
    const float* shared = jobs[i].lower;
    for (; i < jobs.size() && jobs[i].lower == shared; ++i) {
      if (jobs[i].rows > 0 && jobs[i].cols > 0) sweep_one(jobs[i], lower);
    }
  }
}

}  // namespace miq
