// Mutual information of all pairs of channels (compress/information_math.h). Each pair is computed once and written to both triangles.
#include "kernel.h"

#include "miq/compress/information_math.h"

namespace miq::cuda {
namespace {

constexpr int kTile = 32, kRowsOfThreads = 8;
constexpr int kWarps = 8, kPairs = kBinsOfChannel * kBinsOfChannel;

// A thread block is a tile of 32 x 32 pairs on or above the diagonal. The other triangle is written from shared memory, so that both writes
// go along rows.
template <typename Element>
__global__ void gaussian_kernel(const Element* h, const double* mean, const double* inverse, std::int64_t n, float* out, std::int32_t* bad) {
  if (blockIdx.x < blockIdx.y) return;
  __shared__ float tile[kTile][kTile + 1];
  const std::int64_t left = static_cast<std::int64_t>(blockIdx.x) * kTile, top = static_cast<std::int64_t>(blockIdx.y) * kTile;
  const std::int64_t j = left + threadIdx.x;
  for (int r = threadIdx.y; r < kTile; r += kRowsOfThreads) {
    const std::int64_t i = top + r;
    float value = 0;
    if (i < n && j < n && i < j) {
      const double rho = correlation(h[i * n + j], mean[i], mean[j], inverse[i], inverse[j]);
      if (!isfinite(rho)) *bad = 1;
      value = static_cast<float>(information_of(rho));
      out[i * n + j] = value;
    } else if (i < n && i == j) {
      out[i * n + i] = 0;
    }
    tile[r][threadIdx.x] = value;
  }
  __syncthreads();
  const std::int64_t column = top + threadIdx.x;
  for (int r = threadIdx.y; r < kTile; r += kRowsOfThreads) {
    const std::int64_t row = left + r;
    if (row < n && column < row) out[row * n + column] = tile[threadIdx.x][r];
  }
}

// A warp is a pair: its lanes walk the tokens and count in a histogram of the warp's own, in shared memory.
__global__ void binned_kernel(const std::uint8_t* bins, std::int64_t tokens, std::int64_t n, const double* count_logs, const std::int32_t* occupied,
                              const double* log_table, float* out) {
  __shared__ std::uint32_t histograms[kWarps][kPairs];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const std::int64_t i = blockIdx.y, j = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp;
  if (j >= n || j < i) return;  // whole warps
  if (j == i) {
    if (lane == 0) out[i * n + i] = 0;
    return;
  }
  std::uint32_t* counts = histograms[warp];
  for (int p = lane; p < kPairs; p += 32) counts[p] = 0;
  __syncwarp();
  const std::uint8_t *a = bins + i * tokens, *b = bins + j * tokens;
  for (std::int64_t t = lane; t < tokens; t += 32) atomicAdd(&counts[a[t] * kBinsOfChannel + b[t]], 1u);
  __syncwarp();
  if (lane == 0) {
    const double value = binned_information_of(counts, log_table, tokens, count_logs[i], count_logs[j], occupied[i], occupied[j]);
    out[i * n + j] = out[j * n + i] = static_cast<float>(value);
  }
}

}  // namespace

int gaussian_information(int device, const void* second_moment, int wide, const double* mean, const double* inverse_deviation, std::int64_t n,
                         float* out, std::int32_t* bad) {
  int result = 0;
  if (!use_device(device, result)) return result;
  const auto tiles = static_cast<unsigned>((n + kTile - 1) / kTile);
  const dim3 grid(tiles, tiles), threads(kTile, kRowsOfThreads);
  if (n > 0 && wide) gaussian_kernel<<<grid, threads>>>(static_cast<const double*>(second_moment), mean, inverse_deviation, n, out, bad);
  if (n > 0 && !wide) gaussian_kernel<<<grid, threads>>>(static_cast<const float*>(second_moment), mean, inverse_deviation, n, out, bad);
  return launched("mutual information");
}

int binned_information(int device, const std::uint8_t* bins, std::int64_t tokens, std::int64_t n, const double* count_logs,
                       const std::int32_t* occupied, const double* log_table, float* out) {
  int result = 0;
  if (!use_device(device, result)) return result;
  const dim3 grid(static_cast<unsigned>((n + kWarps - 1) / kWarps), static_cast<unsigned>(n));
  if (n > 0) binned_kernel<<<grid, kWarps * 32>>>(bins, tokens, n, count_logs, occupied, log_table, out);
  return launched("binned mutual information");
}

}  // namespace miq::cuda
