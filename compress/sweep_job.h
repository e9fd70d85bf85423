// Internal to the solver: what the sweep works on, the same for the CPU and the CUDA engine. C++17, because
// nvcc compiles it.
//
// One job is one matrix with its columns in sweep order and its rows in tiles of kTileRows; a tile is
// [column][row], so job arrays are [tiles][cols][64]; rows past the matrix's last are zero and ignored.
// The caller (sweep.cc) owns all arrays and fills the inputs; the engine fills the outputs.
#pragma once

#include <cstdint>
#include <vector>

namespace miq {

struct SweepJob {
  std::int64_t rows = 0, cols = 0, tiles = 0;

  // In: weights. Out: their new values.
  std::vector<float> weights;
  const float* lower = nullptr;      // [cols][cols] transposed factor: lower[j * cols + k] = U_kj, k <= j; null where the factor is on a device
  std::vector<std::int64_t> blocks;  // first columns of the blocks, and cols

  // Quantization; groups is 0 without.
  std::int64_t groups = 0;
  bool dynamic = false;
  bool half = true;
  int scale_bits = 0;                    // coded scales (formats/scale_code.h); 0: by `half`
  std::vector<std::uint32_t> exponents;  // [tiles][64] of the rows, where coded
  std::vector<std::uint16_t> group_of;   // [cols]
  std::vector<float> max_codes;          // [groups] 2^bits - 1
  std::vector<float> clips;              // at least one
  std::vector<float> column_weights;     // [cols] weights of the clip search; may be empty when static
  std::vector<float> scales, zeros;      // [tiles][groups][64]; in when static, out when dynamic
  std::vector<std::uint8_t> codes;       // out: [tiles][cols][64]

  // Pruning. `kept` [tiles][cols][64] is out, all 1 at the start; empty when nothing is to be pruned.
  std::vector<std::uint8_t> kept;
  std::vector<float> row_weights;            // [tiles][64], 1 where none were given
  std::vector<std::int64_t> rank_of_block;   // thresholds: [blocks] the rank of the threshold; -1: prune none
  bool prune_ties = false;                   // all at the threshold are pruned, not just rank + 1 weights in all
  int n = 0, m = 0;                          // n:m; 0: none

  const std::uint32_t* exponents_of(std::int64_t tile) const { return scale_bits ? exponents.data() + tile * 64 : nullptr; }

  std::vector<double> losses;  // out: [tiles] sum of errors^2 / 2 over the tile's rows
};

}  // namespace miq
