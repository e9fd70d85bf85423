// Packed matrices on a GPU (formats/packed_octets.h): decoded to bfloat16 or float32, and multiplied by one vector without being decoded.
#include "kernel.h"

#include "miq/formats/packed_octets.h"

namespace miq::cuda {
namespace {

constexpr unsigned kAll = 0xFFFFFFFFu;
constexpr int kWarps = 8, kRowsAtOnce = 4;

// Kept weights of the run before this lane's octet. All lanes of the warp call it.
__device__ std::uint32_t kept_in_run(std::uint32_t kept, int first_lane, int lane) {
  const std::uint32_t own = count_ones(kept);
  std::uint32_t sum = own;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const std::uint32_t below = __shfl_up_sync(kAll, sum, step);
    if (lane >= step) sum += below;
  }
  const std::uint32_t before = sum - own;
  return before - __shfl_sync(kAll, before, first_lane);
}

__device__ void read_inputs(const float* x, const PackedOctet& octet, float* values) {
  if (octet.count == kOctet && octet.column % 4 == 0) {
    const float4 low = *reinterpret_cast<const float4*>(x + octet.column), high = *reinterpret_cast<const float4*>(x + octet.column + 4);
    values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
    values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
    return;
  }
#pragma unroll
  for (int i = 0; i < kOctet; ++i) values[i] = i < octet.count ? x[octet.column + i] : 0.0f;
}

// A thread block is four rows, which share what is read of x; its warps share the octets, and all four rows' codes are on their way at
// once. Sums are added in a fixed order.
__global__ void __launch_bounds__(kWarps * 32) product_kernel(PackedView view, const float* x, float* y) {
  __shared__ float partial[kWarps][kRowsAtOnce];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kRowsAtOnce;
  float sums[kRowsAtOnce] = {};
  for (std::int64_t begin = warp * 32; begin < view.octets; begin += kWarps * 32) {
    const bool there = begin + lane < view.octets;
    PackedOctet octet{};
    float values[kOctet] = {};
    std::uint32_t bits = 8;
    if (there) {
      octet = view.octet[begin + lane];
      bits = view.group[octet.group].bits;
      read_inputs(x, octet, values);
    }
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      const std::int64_t row = first + r;
      if (row >= view.rows) break;  // the whole block
      const std::uint32_t kept = there ? kept_bits(view, octet, row) : 0;
      const std::uint32_t before = view.mask ? kept_in_run(kept, octet.first_lane, lane) : 0;
      if (!there) continue;
      const float scale = view.scales[octet.group * view.rows + row];
      const float product = octet_product(view, octet_codes(view, octet, row, before), kept, bits, zero_point(view, view.group[octet.group], row), values);
      sums[r] = fmaf(scale, product, sums[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRowsAtOnce; ++r) {
    for (int step = 16; step > 0; step /= 2) sums[r] += __shfl_down_sync(kAll, sums[r], step);
    if (lane == 0) partial[warp][r] = sums[r];
  }
  __syncthreads();
  if (threadIdx.x < kRowsAtOnce && first + threadIdx.x < view.rows) {
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += partial[w][threadIdx.x];
    y[first + threadIdx.x] = sum;
  }
}

// A warp is 32 octets of one row.
template <class Number>
__global__ void decode_kernel(PackedView view, int rounding, Number* out) {
  constexpr int kAligned = 16 / sizeof(Number);  // numbers that one store takes
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const std::int64_t begin = (static_cast<std::int64_t>(blockIdx.y) * kWarps + warp) * 32;
  if (begin >= view.octets) return;  // whole warps
  const bool there = begin + lane < view.octets;
  PackedOctet octet{};
  if (there) octet = view.octet[begin + lane];
  for (std::int64_t row = blockIdx.x; row < view.rows; row += gridDim.x) {
    const std::uint32_t kept = there ? kept_bits(view, octet, row) : 0;
    const std::uint32_t before = view.mask ? kept_in_run(kept, octet.first_lane, lane) : 0;
    if (!there) continue;
    const PackedGroupView group = view.group[octet.group];
    alignas(16) Number values[kOctet];
    octet_decode(octet_codes(view, octet, row, before), kept, group.bits, zero_point(view, group, row), view.scales[octet.group * view.rows + row], rounding,
                 values);
    Number* to = out + row * view.cols;
    if (view.column_of_place) {
#pragma unroll
      for (int i = 0; i < kOctet; ++i)  // of constant length, so that the numbers stay in registers
        if (i < octet.count) to[view.column_of_place[octet.column + i]] = values[i];
    } else if (octet.count == kOctet && octet.column % kAligned == 0 && view.cols % kAligned == 0) {
#pragma unroll
      for (int i = 0; i < kOctet; i += kAligned) *reinterpret_cast<uint4*>(to + octet.column + i) = *reinterpret_cast<const uint4*>(values + i);
    } else {
#pragma unroll
      for (int i = 0; i < kOctet; ++i)
        if (i < octet.count) to[octet.column + i] = values[i];
    }
  }
}

}  // namespace

int packed_product(int device, const PackedView* view, const float* x, float* y) {
  int result = 0;
  if (!use_device(device, result)) return result;
  const auto blocks = static_cast<unsigned>((view->rows + kRowsAtOnce - 1) / kRowsAtOnce);
  if (blocks > 0) product_kernel<<<blocks, kWarps * 32>>>(*view, x, y);
  return launched("the product with a packed matrix");
}

int packed_decode(int device, const PackedView* view, int rounding, int wide, void* out) {
  int result = 0;
  if (!use_device(device, result)) return result;
  static_assert(kMostDecodedOctets <= std::int64_t{65535} * kWarps * 32, "a grid has no more rows of blocks");
  const std::int64_t tiles = (view->octets + kWarps * 32 - 1) / (kWarps * 32);
  if (view->octets > kMostDecodedOctets) return failed("decoding a packed matrix of more than 130 million columns", cudaErrorInvalidValue);
  const dim3 grid(static_cast<unsigned>(view->rows < 65536 ? view->rows : 65536), static_cast<unsigned>(tiles));
  if (tiles == 0 || view->rows == 0) return 0;
  if (wide) {
    decode_kernel<<<grid, kWarps * 32>>>(*view, rounding, static_cast<float*>(out));
  } else {
    decode_kernel<<<grid, kWarps * 32>>>(*view, rounding, static_cast<std::uint16_t*>(out));
  }
  return launched("decoding a packed matrix");
}

}  // namespace miq::cuda
