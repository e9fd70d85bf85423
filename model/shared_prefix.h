// Several sequences in one tensor of hidden states, where a sequence that begins as another one does has no rows of its own for that
// beginning: choices after one context are computed with one context. Rows of many short sequences side by side also make for larger
// matrix products.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "miq/model/forward.h"
#include "miq/model/rope.h"

namespace miq {

// Positions 0 … prefix - 1 are the rows from `prefix_begin` on, which belong to an earlier sequence; positions prefix … prefix + length - 1
// are the sequence's own rows, from `begin` on.
struct SharedSequence {
  std::int64_t prefix_begin = 0, prefix = 0, begin = 0, length = 0;

  std::int64_t row(std::int64_t position) const { return position < prefix ? prefix_begin + position : begin + position - prefix; }
};

struct SharedRows {
  std::vector<SharedSequence> sequences;  // those with rows of their own, which follow each other
  std::vector<std::int32_t> ids;          // of each row

  std::int64_t rows() const { return static_cast<std::int64_t>(ids.size()); }
  // Adds a sequence that shares `prefix` rows with the one that begins at row `prefix_begin`; `own` are the ids behind them.
  SharedSequence add(std::int64_t prefix_begin, std::int64_t prefix, std::span<const std::int32_t> own);
};

// The steps of ForwardPass for such rows. Each sequence's result is that of a window of its own: the same bits on our own kernels,
// and within rounding where LibTorch's matrix products depend on the number of rows.
class SharedPass {
 public:
  explicit SharedPass(const ForwardPass& forward) : forward_(forward), rope_(forward.model().config, forward.device()) {}

  // False where a token's rotation depends on the length of its sequence (dynamic scaling): sequences must then not share rows.
  static bool can_share(const Config& config);

  at::Tensor embed(const SharedRows& rows) const;
  // `layer` as load_layer() gave it.
  at::Tensor run_layer(const LayerWeights& layer, const at::Tensor& hidden, const SharedRows& rows) const;

 private:
  const ForwardPass& forward_;
  mutable RopeTables rope_;
};

}  // namespace miq
