// The kernel keeps 12 rows x 32 columns of sums in 24 vector registers. For every pair of inner indices
// it loads two vectors of B and, for each row, one pair of A spread over a vector: 24 vdpbf16ps for 14
// loads, so the multipliers are the limit (95 % of their peak measured on Zen 4). Five row pointers and
// one stride address all twelve rows.
#include "miq/model/bf16_product.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "miq/model/avx512.h"

namespace miq {
namespace {

constexpr std::int64_t kPairValues = 2 * kPanel;  // values of one pair of inner indices in a panel

template <int Rows>
MIQ_AVX512_BF16 void multiply_panel(const Bf16* a, std::int64_t lda, const Bf16* panel, std::int64_t pairs, float* tile, std::int64_t stride) {
  __m512 sums[Rows][2];
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
  constexpr int kPointers = (Rows + 2) / 3;
  const char* pointers[kPointers];
#pragma GCC unroll 4
  for (int i = 0; i < kPointers; ++i) pointers[i] = reinterpret_cast<const char*>(a + 3 * i * lda);
  const std::int64_t step = lda * 2;
  for (std::int64_t pair = 0; pair < pairs; ++pair, panel += kPairValues) {
    const auto b0 = (__m512bh)_mm512_loadu_si512(panel);
    const auto b1 = (__m512bh)_mm512_loadu_si512(panel + kPanel);
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
      int two;
      std::memcpy(&two, pointers[r / 3] + (r % 3) * step, 4);
      const auto spread = avx512::spread_pair(two);
      sums[r][0] = _mm512_dpbf16_ps(sums[r][0], spread, b0);
      sums[r][1] = _mm512_dpbf16_ps(sums[r][1], spread, b1);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kPointers; ++i) pointers[i] += 4;
  }
#pragma GCC unroll 12
  for (int r = 0; r < Rows; ++r) {
    _mm512_storeu_ps(tile + r * stride, sums[r][0]);
    _mm512_storeu_ps(tile + r * stride + 16, sums[r][1]);
  }
}

using Kernel = void (*)(const Bf16*, std::int64_t, const Bf16*, std::int64_t, float*, std::int64_t);
constexpr Kernel kKernels[] = {multiply_panel<1>, multiply_panel<2>, multiply_panel<3>, multiply_panel<4>,  multiply_panel<5>,  multiply_panel<6>,
                               multiply_panel<7>, multiply_panel<8>, multiply_panel<9>, multiply_panel<10>, multiply_panel<11>, multiply_panel<12>};
static_assert(std::size(kKernels) == kTileRows);

std::int64_t round_up(std::int64_t value, std::int64_t to) { return (value + to - 1) / to * to; }

}  // namespace

bool have_bf16_kernels() {
  static const bool have = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bf16");
  return have;
}

void PackedBf16::Free::operator()(Bf16* data) const { ::operator delete[](data, std::align_val_t{64}); }

PackedBf16::PackedBf16(std::int64_t inner, std::int64_t columns) : inner_(inner), columns_(columns), padded_(round_up(columns, kTileColumns)) {
  const auto values = static_cast<std::size_t>(inner_ * padded_);
  data_.reset(static_cast<Bf16*>(::operator new[](values * sizeof(Bf16), std::align_val_t{64})));
  std::memset(data_.get(), 0, values * sizeof(Bf16));
}

void PackedBf16::set_columns(std::int64_t first, const Bf16* rows, std::int64_t stride, std::int64_t count) {
  for (std::int64_t begin = 0; begin < count; begin += kPanel) {
    const std::int64_t width = std::min(kPanel, count - begin);
    Bf16* to = data_.get() + (first + begin) * inner_;
    const Bf16* from = rows + begin * stride;
    for (std::int64_t i = 0; i < inner_; i += 2, to += kPairValues) {
      for (std::int64_t c = 0; c < width; ++c) std::memcpy(to + 2 * c, from + c * stride + i, 4);
    }
  }
}

void PackedBf16::set_inner(std::int64_t first, const Bf16* rows, std::int64_t stride, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t column = 0; column < columns_; column += kPanel) {
      Bf16* to = data_.get() + column * inner_ + (first + i) / 2 * kPairValues + (first + i) % 2;
      const Bf16* from = rows + i * stride + column;
      const std::int64_t width = std::min(kPanel, columns_ - column);
      for (std::int64_t c = 0; c < width; ++c) to[2 * c] = from[c];
    }
  }
}

void multiply_tile(const Bf16* a, std::int64_t lda, std::int64_t rows, const PackedBf16& b, std::int64_t column, std::int64_t columns,
                   std::int64_t inner, float* tile, std::int64_t stride, std::int64_t first) {
  const Kernel kernel = kKernels[rows - 1];
  for (std::int64_t c = 0; c < columns; c += kPanel) {
    kernel(a + first, lda, b.panel(column + c) + first * kPanel, (inner - first) / 2, tile + c, stride);
  }
}

}  // namespace miq
