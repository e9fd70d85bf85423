// The sweep on a GPU: the steps of compress/sweep_steps.h as kernels, without fused multiply-adds (cmake/Cuda.cmake).
//
// One thread block of 64 threads is one tile of 64 rows, one thread a row; a tile's columns are swept in that block, its errors in shared memory
// where they fit. Everything is queued at once: no step waits for the host.
#include "kernel.h"

#include "miq/compress/sweep_steps.h"

namespace miq::cuda {
namespace {

constexpr std::size_t kSharedBytes = 48 * 1024;

struct Place {
  const SweepView* view;
  std::int64_t tile;  // of the view's matrix
  int job;
};

__device__ Place place_of(const SweepLaunch& launch, std::int64_t tile) {
  const int job = job_of_tile(launch, tile);
  return {&launch.views[job], tile - launch.first_tile[job], job};
}

__global__ void score_kernel(const __grid_constant__ SweepLaunch launch, std::int64_t block, std::int64_t first, std::int64_t width) {
  const Place at = place_of(launch, blockIdx.x);
  if (!searches(*at.view, block)) return;
  for (std::int64_t i = blockIdx.y; i < width; i += gridDim.y) score_weight(*at.view, at.tile, first, i, threadIdx.x);
}

__global__ void count_kernel(const __grid_constant__ SweepLaunch launch, std::int64_t block, std::int64_t width, int shift) {
  const Place at = place_of(launch, blockIdx.x);
  const SweepView& v = *at.view;
  if (!searches(v, block)) return;
  __shared__ std::uint32_t local[256];
  for (int i = threadIdx.x; i < 256; i += blockDim.x) local[i] = 0;
  __syncthreads();
  const std::uint32_t prefix = v.threshold->prefix;
  if (is_row(v, at.tile, threadIdx.x)) {
    for (std::int64_t i = blockIdx.y; i < width; i += gridDim.y) {
      const int byte = byte_of_score(v.scores[score_place(v, at.tile, i, threadIdx.x)], prefix, shift);
      if (byte >= 0) atomicAdd(&local[byte], 1u);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 256; i += blockDim.x)
    if (local[i]) atomicAdd(&v.counts[i], local[i]);
}

__global__ void pick_kernel(const __grid_constant__ SweepLaunch launch, std::int64_t block, int shift) {
  const SweepView& v = launch.views[blockIdx.x];
  if (searches(v, block)) pick_byte(v, block, shift);
}

__global__ void ties_kernel(const __grid_constant__ SweepLaunch launch, std::int64_t block, std::int64_t width) {
  const Place at = place_of(launch, blockIdx.x);
  if (!searches(*at.view, block)) return;
  __shared__ unsigned long long ties;
  if (threadIdx.x == 0) ties = 0;
  __syncthreads();
  const std::int64_t own = ties_of_row(*at.view, at.tile, width, threadIdx.x);
  if (own) atomicAdd(&ties, static_cast<unsigned long long>(own));
  __syncthreads();
  if (threadIdx.x == 0) at.view->ties[at.tile] = static_cast<std::int64_t>(ties);
}

__global__ void share_kernel(const __grid_constant__ SweepLaunch launch, std::int64_t block) {
  const int job = blockIdx.x;
  if (searches(launch.views[job], block)) share_ties(launch.views[job], launch.first_tile[job + 1] - launch.first_tile[job], block);
}

__global__ void apply_kernel(const __grid_constant__ SweepLaunch launch, std::int64_t block, std::int64_t first, std::int64_t width) {
  const Place at = place_of(launch, blockIdx.x);
  if (!searches(*at.view, block)) return;
  apply_threshold(*at.view, at.tile, first, width, threadIdx.x);
  __syncthreads();
  if (threadIdx.x == 0) keep_ties(*at.view, at.tile, first, width);
}

__global__ void sweep_kernel(const __grid_constant__ SweepLaunch launch, std::int64_t first, std::int64_t last, bool in_shared) {
  extern __shared__ float shared_errors[];
  const Place at = place_of(launch, blockIdx.x);
  float* kept = at.view->errors + at.tile * at.view->stride * kSweepRows;
  sweep_row(*at.view, at.tile, first, last, threadIdx.x, in_shared ? shared_errors : kept, in_shared ? kept : nullptr);
}

__global__ void rest_kernel(const __grid_constant__ SweepLaunch launch, std::int64_t first, std::int64_t last) {
  __shared__ RestTile shared;
  const Place at = place_of(launch, blockIdx.x);
  const std::int64_t begin = last + static_cast<std::int64_t>(blockIdx.y) * kRestColumns, width = last - first;
  float sums[4][4] = {};
  for (std::int64_t k = 0; k < width; k += kRestDepth) {
    load_rest(*at.view, at.tile, first, width, begin, k, threadIdx.x, shared);
    __syncthreads();
    add_rest(threadIdx.x, static_cast<int>(width - k < kRestDepth ? width - k : kRestDepth), shared, sums);
    __syncthreads();
  }
  subtract_rest(*at.view, at.tile, begin, threadIdx.x, sums);
}

struct Kernels {
  const SweepLaunch& launch;
  unsigned tiles() const { return static_cast<unsigned>(launch.first_tile[launch.jobs]); }
  unsigned jobs() const { return static_cast<unsigned>(launch.jobs); }
  dim3 columns(std::int64_t width) const { return dim3(tiles(), static_cast<unsigned>(width < 32 ? width : 32)); }

  void score(std::int64_t block, std::int64_t first, std::int64_t width) {
    score_kernel<<<columns(width), kSweepRows>>>(launch, block, first, width);
  }
  void count(std::int64_t block, std::int64_t width, int shift) { count_kernel<<<columns(width), kSweepRows>>>(launch, block, width, shift); }
  void pick(std::int64_t block, int shift) { pick_kernel<<<jobs(), 1>>>(launch, block, shift); }
  void ties(std::int64_t block, std::int64_t width) { ties_kernel<<<tiles(), kSweepRows>>>(launch, block, width); }
  void share(std::int64_t block) { share_kernel<<<jobs(), 1>>>(launch, block); }
  void apply(std::int64_t block, std::int64_t first, std::int64_t width) {
    apply_kernel<<<tiles(), kSweepRows>>>(launch, block, first, width);
  }
  void sweep(std::int64_t first, std::int64_t last) {
    const std::size_t bytes = static_cast<std::size_t>(last - first) * kSweepRows * sizeof(float);
    const bool in_shared = bytes <= kSharedBytes;
    sweep_kernel<<<tiles(), kSweepRows, in_shared ? bytes : 0>>>(launch, first, last, in_shared);
  }
  void rest(std::int64_t first, std::int64_t last) {
    const std::int64_t strips = (launch.views[0].cols - last + kRestColumns - 1) / kRestColumns;
    rest_kernel<<<dim3(tiles(), static_cast<unsigned>(strips)), kRestThreads>>>(launch, first, last);
  }
};

}  // namespace

int sweep(int device, const SweepLaunch* launch, const std::int64_t* blocks, std::int64_t count) {
  int result = 0;
  if (!use_device(device, result)) return result;
  Kernels kernels{*launch};
  run_sweep(*launch, blocks, count, kernels);
  return launched("the column sweep");
}

}  // namespace miq::cuda
