// One instruction multiplies 16 pairs of bfloat16 with 16 pairs and adds both products of each to 16 sums.
// 8 channels times 48 channels of sums stay in 24 registers while the tokens stream by.
#include "miq/compress/bfloat16_products.h"

#include <algorithm>

#include "miq/model/avx512.h"
#include "miq/model/bf16_product.h"

namespace miq {

bool bfloat16_products_available() { return have_bf16_kernels(); }

namespace {

constexpr int kRows = 8, kVectors = 3;

// out [8][48] = products of channels row … row+7 of panel `a` with panel `b`.
MIQ_AVX512_BF16 void multiply(const std::uint32_t* a, const std::uint32_t* b, std::int64_t pairs, float* out) {
  __m512 sums[kRows][kVectors];
  for (auto& row : sums)
    for (auto& sum : row) sum = _mm512_setzero_ps();
  for (std::int64_t p = 0; p < pairs; ++p) {
    const std::uint32_t* right = b + p * PairPanels::kWidth;
    __m512bh vectors[kVectors];
    for (int v = 0; v < kVectors; ++v) vectors[v] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(right + v * 16));
    for (int r = 0; r < kRows; ++r) {
      const __m512bh left = avx512::spread_pair(static_cast<int>(a[p * PairPanels::kWidth + r]));
      for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], left, vectors[v]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(out + r * PairPanels::kWidth + v * 16, sums[r][v]);
}

}  // namespace

void panel_products(const PairPanels& x, std::int64_t a, std::int64_t b, float* products) {
  constexpr std::int64_t width = PairPanels::kWidth;
  const std::uint32_t* left = x.words.data() + a * x.pairs * width;
  const std::uint32_t* right = x.words.data() + b * x.pairs * width;
  for (std::int64_t first = 0; first < width; first += kRows) multiply(left + first, right, x.pairs, products + first * width);
}

PairPanels pair_panels(const std::uint16_t* data, std::int64_t tokens, std::int64_t channels, std::int64_t stride, bool* finite) {
  constexpr std::int64_t width = PairPanels::kWidth;
  PairPanels result;
  result.channels = channels;
  result.pairs = (tokens + 1) / 2;
  const std::int64_t panels = (channels + width - 1) / width;
  result.words.resize(panels * result.pairs * width);
  std::uint32_t largest = 0;
  for (std::int64_t p = 0; p < result.pairs; ++p) {
    const std::uint16_t* first = data + 2 * p * stride;
    const bool has_second = 2 * p + 1 < tokens;
    const std::uint16_t* second = has_second ? first + stride : first;
    for (std::int64_t panel = 0; panel < panels; ++panel) {
      std::uint32_t* out = result.words.data() + (panel * result.pairs + p) * width;
      const std::int64_t begin = panel * width, count = std::min(width, channels - begin);
      for (std::int64_t j = 0; j < count; ++j) {
        const std::uint32_t low = first[begin + j], high = has_second ? second[begin + j] : 0;
        largest = std::max({largest, low & 0x7fffu, high & 0x7fffu});
        out[j] = low | high << 16;
      }
    }
  }
  *finite = largest < 0x7f80u;
  return result;
}

}  // namespace miq
