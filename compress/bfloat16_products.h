// Internal to hessian.cc: x^T x of bfloat16 matrices with float32 sums, on processors with AVX-512 BF16
// instructions (about twice the speed of float32 products, and no wider copy of x).
#pragma once

#include <cstdint>
#include <vector>

namespace miq {

// Whether this processor has the instructions; nothing below may be called otherwise.
bool bfloat16_products_available();

// A [tokens, channels] matrix as pairs of tokens in panels of 48 channels: [panel][pair][48], one 32-bit word
// being tokens 2p (low half) and 2p+1 of one channel. Padded with zeros.
struct PairPanels {
  static constexpr std::int64_t kWidth = 48;
  std::int64_t channels = 0, pairs = 0;
  std::vector<std::uint32_t> words;
};

// `data` row-major bfloat16 bits, rows `stride` elements apart. `finite` becomes false when a value is NaN or infinite.
PairPanels pair_panels(const std::uint16_t* data, std::int64_t tokens, std::int64_t channels, std::int64_t stride, bool* finite);

// products [48][48]: the sum over tokens of x[t][i] x[t][j] for channels i of panel `a` and j of panel `b`; zero where a panel is padded. Products of two
// values are exact; sums over the tokens are float32, subnormal ones flushed.
void panel_products(const PairPanels& x, std::int64_t a, std::int64_t b, float* products);

}  // namespace miq
