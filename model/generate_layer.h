// A decoder layer for the few tokens of a step of generation: five rounds of the threads (q k v; attention; o; gate and up; down), and nothing
// but loops over the rows between them. A step reads every weight once and computes little, so what the operations of a tensor library take
// for themselves would be a good part of its time.
//
// Everything between weights and cached keys and values is float32. A row's values depend on that row and its sequence alone.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "miq/base/thread_pool.h"
#include "miq/model/kv_cache.h"
#include "miq/model/rope.h"

namespace miq {

// A token on its way through the layers.
struct StepRow {
  KvCache* cache;
  std::int64_t position;
};

class StepLayer {
 public:
  // Pre-norm layers with RMS norms, rotary positions and one gated SiLU MLP; biases on q, k and v, norms of heads, windows; sliced ones too.
  static bool supports(const Config& config, const LayerConfig& sizes);
  // Keeps views of the layer's tensors. REQUIRES supports(), linears that are contiguous and of one type, F32 or BF16, and rotations whose
  // transposes are contiguous.
  StepLayer(const Config& config, const LayerWeights& layer);

  // hidden [rows, input_width()] -> output [rows, output_width()], float32; the same memory where these widths are the same. `rope` has a row
  // for each of the rows. Stores keys and values of all rows before any of them looks back, so rows may be tokens of one sequence, in
  // order, or of several.
  void run(std::span<const StepRow> rows, const RopeTable& rope, const float* hidden, float* output, ThreadPool& pool) const;

 private:
  struct Matrix {  // rows first … first + out - 1 of a tensor [.., in]
    at::Tensor weight;
    std::int64_t first = 0, out = 0;
    const float* bias = nullptr;
  };
  struct Buffers;
  void multiply(const Matrix& matrix, std::int64_t begin, std::int64_t end, const float* x, std::int64_t rows, float* y, std::int64_t ldy) const;
  void project(std::int64_t rows, Buffers& buffers, ThreadPool& pool) const;
  void place(std::span<const StepRow> rows, const RopeTable& rope, Buffers& buffers) const;
  void add_block(const Matrix& rotation, const Matrix& matrix, const float* stream, const float* x, std::int64_t rows, float* to, ThreadPool& pool) const;
  void normalise(const float* stream, const float* weight, std::int64_t rows, std::int64_t width, float* to) const;
  void gate(std::int64_t rows, Buffers& buffers, ThreadPool& pool) const;
  std::int64_t tile_rows(const Matrix& matrix) const;

  const Config& config_;
  const LayerConfig& sizes_;
  std::size_t index_;
  std::vector<at::Tensor> kept_;  // norms and biases
  Matrix q_, k_, v_, o_, gate_, up_, down_;
  Matrix attention_rotation_, mlp_rotation_;  // [out, in] float32; in sliced models
  const float *input_norm_ = nullptr, *mlp_norm_ = nullptr, *query_norm_ = nullptr, *key_norm_ = nullptr;
};

}  // namespace miq
