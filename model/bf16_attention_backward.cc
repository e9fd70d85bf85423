// For each query head two passes, twelve rows at a time. Rows of queries: scores and the probabilities' gradients up to the
// diagonal, from them the scores' gradients and with those the queries'. Rows of keys, from the diagonal on: the same scores
// transposed; probabilities and gradients come from the log-sum-exp and the mean that the first pass left, and what they
// multiply never leaves registers. Sums over the query heads that share a key are taken in their order.
#include <algorithm>
#include <cmath>
#include <vector>

#include "miq/model/bf16_attention.h"
#include "miq/model/bf16_elementwise.h"

namespace miq {
namespace {

std::int64_t round_up(std::int64_t value, std::int64_t to) { return (value + to - 1) / to * to; }

// [tokens, head_dim] as rows, and packed both ways where products want that.
struct Head {
  std::vector<Bf16> rows;
  PackedBf16 columns, inner;  // a column a token; an inner index a token
};

class AttentionBackward {
 public:
  AttentionBackward(const AttentionSizes& sizes, std::int64_t stride, const float* cosines, const float* sines)
      : sizes_(sizes), stride_(stride), cosines_(cosines), backward_sines_(static_cast<std::size_t>(sizes.tokens * sizes.head_dim / 2)), sines_(sines),
        padded_(round_up(sizes.tokens, kTileColumns)), breadth_(round_up(sizes.head_dim, kTileColumns)),
        scale_(static_cast<float>(1 / std::sqrt(static_cast<double>(sizes.head_dim)))) {
    for (std::size_t i = 0; i < backward_sines_.size(); ++i) backward_sines_[i] = -sines[i];
    const auto tokens = static_cast<std::size_t>(padded_), head = static_cast<std::size_t>(sizes.tokens * breadth_);
    for (auto* rows : {&scores_, &products_}) rows->resize(kTileRows * tokens);
    for (auto* rows : {&score_gradients_, &probabilities_}) rows->resize(kTileRows * tokens);
    for (auto* figures : {&log_sums_, &means_}) figures->resize(tokens);
    for (auto* sums : {&query_, &key_, &value_}) sums->resize(head);
    tile_.resize(static_cast<std::size_t>(kTileRows * breadth_));
  }

  void set_key_value_head(const float* k, const float* v) {
    set_head(k, true, keys_);
    set_head(v, false, values_);
    std::fill(key_.begin(), key_.end(), 0.0f);
    std::fill(value_.begin(), value_.end(), 0.0f);
  }

  // `gradient` and `to`: this head's first values; rows of `gradient_stride` and `to_stride`.
  void add_query_head(const float* q, const Bf16* gradient, std::int64_t gradient_stride, Bf16* to, std::int64_t to_stride) {
    set_head(q, true, queries_);
    outputs_.rows.resize(static_cast<std::size_t>(sizes_.tokens * sizes_.head_dim));
    for (std::int64_t t = 0; t < sizes_.tokens; ++t) {
      std::copy_n(gradient + t * gradient_stride, sizes_.head_dim, outputs_.rows.data() + t * sizes_.head_dim);
    }
    pack(outputs_);
    for (std::int64_t first = 0; first < sizes_.tokens; first += kTileRows) query_rows(first, std::min(kTileRows, sizes_.tokens - first));
    for (std::int64_t first = 0; first < sizes_.tokens; first += kTileRows) key_rows(first, std::min(kTileRows, sizes_.tokens - first));
    store_rotated(query_, to, to_stride);
  }

  void store_key_value(Bf16* to_key, Bf16* to_value, std::int64_t to_stride) const {
    store_rotated(key_, to_key, to_stride);
    for (std::int64_t t = 0; t < sizes_.tokens; ++t) scale_bf16(value_.data() + t * breadth_, 1.0f, sizes_.head_dim, to_value + t * to_stride);
  }

 private:
  void pack(Head& head) const {
    const std::int64_t d = sizes_.head_dim;
    if (head.columns.inner() == 0) {
      head.columns = PackedBf16(d, padded_);
      head.inner = PackedBf16(padded_, d);
    }
    head.columns.set_columns(0, head.rows.data(), d, sizes_.tokens);
    head.inner.set_inner(0, head.rows.data(), d, sizes_.tokens);
  }

  void set_head(const float* x, bool rotate, Head& head) const {
    const std::int64_t d = sizes_.head_dim, half = d / 2;
    head.rows.resize(static_cast<std::size_t>(sizes_.tokens * d));
    for (std::int64_t t = 0; t < sizes_.tokens; ++t) {
      Bf16* to = head.rows.data() + t * d;
      rotate ? rotate_bf16(x + t * stride_, cosines_ + t * half, sines_ + t * half, half, to) : scale_bf16(x + t * stride_, 1.0f, d, to);
    }
    pack(head);
  }

  // Gradients of rotated values, turned back.
  void store_rotated(const std::vector<float>& gradients, Bf16* to, std::int64_t to_stride) const {
    const std::int64_t half = sizes_.head_dim / 2;
    for (std::int64_t t = 0; t < sizes_.tokens; ++t) {
      rotate_bf16(gradients.data() + t * breadth_, cosines_ + t * half, backward_sines_.data() + t * half, half, to + t * to_stride);
    }
  }

  // to[r][i] = rows first + r of `a` times token i of `b`, for first_token <= i < end (whole panels).
  void multiply(const Head& a, std::int64_t first, std::int64_t rows, const Head& b, std::int64_t first_token, std::int64_t end, float* to) const {
    const std::int64_t d = sizes_.head_dim;
    for (std::int64_t token = first_token / kTileColumns * kTileColumns; token < end; token += kTileColumns) {
      multiply_tile(a.rows.data() + first * d, d, rows, b.columns, token, std::min(kTileColumns, end - token), d, to + token, padded_);
    }
  }

  // tile_[r] = sum over first_token <= i < end of a[r][i] times token i of `b`.
  void mix(const std::vector<Bf16>& a, std::int64_t rows, const Head& b, std::int64_t first_token, std::int64_t end) {
    for (std::int64_t c = 0; c < breadth_; c += kTileColumns) {
      multiply_tile(a.data(), padded_, rows, b.inner, c, kTileColumns, end, tile_.data() + c, breadth_, first_token);
    }
  }

  void query_rows(std::int64_t first, std::int64_t rows) {
    const std::int64_t seen = round_up(first + rows, kPanel), from = first_seen(first) / kTileColumns * kTileColumns;
    multiply(queries_, first, rows, keys_, from, seen, scores_.data());
    multiply(outputs_, first, rows, values_, from, seen, products_.data());
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t token = first + r, at = r * padded_;
      const SoftmaxRow row = softmax_backward(scores_.data() + at, products_.data() + at, first_seen(token), token + 1, scale_, seen,
                                              score_gradients_.data() + at);
      log_sums_[static_cast<std::size_t>(token)] = row.log_sum;
      means_[static_cast<std::size_t>(token)] = row.mean;
    }
    mix(score_gradients_, rows, keys_, from, round_up(first + rows, 2));
    std::copy_n(tile_.data(), rows * breadth_, query_.data() + first * breadth_);
  }

  void key_rows(std::int64_t first, std::int64_t rows) {
    const std::int64_t from = first / kTileColumns * kTileColumns;
    const std::int64_t last = sizes_.window == 0 ? sizes_.tokens : std::min(sizes_.tokens, first + rows - 1 + sizes_.window);
    const std::int64_t end = round_up(last, kPanel);
    multiply(keys_, first, rows, queries_, from, end, scores_.data());
    multiply(values_, first, rows, outputs_, from, end, products_.data());
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t token = first + r, at = r * padded_;
      const std::int64_t seen_by = sizes_.window == 0 ? sizes_.tokens : std::min(sizes_.tokens, token + sizes_.window);
      std::fill_n(probabilities_.data() + at + from, token / 16 * 16 - from, Bf16{0});
      std::fill_n(score_gradients_.data() + at + from, token / 16 * 16 - from, Bf16{0});
      softmax_column_backward(scores_.data() + at, products_.data() + at, log_sums_.data(), means_.data(), token, seen_by, scale_, end,
                              probabilities_.data() + at, score_gradients_.data() + at);
    }
    const std::int64_t even = round_up(last, 2);
    mix(probabilities_, rows, outputs_, from, even);
    for (std::int64_t i = 0; i < rows * breadth_; ++i) value_[static_cast<std::size_t>(first * breadth_ + i)] += tile_[static_cast<std::size_t>(i)];
    mix(score_gradients_, rows, queries_, from, even);
    for (std::int64_t i = 0; i < rows * breadth_; ++i) key_[static_cast<std::size_t>(first * breadth_ + i)] += tile_[static_cast<std::size_t>(i)];
  }

  std::int64_t first_seen(std::int64_t token) const { return sizes_.window == 0 ? 0 : std::max<std::int64_t>(0, token - sizes_.window + 1); }

  const AttentionSizes& sizes_;
  std::int64_t stride_;
  const float* cosines_;
  std::vector<float> backward_sines_;
  const float* sines_;
  std::int64_t padded_, breadth_;  // tokens and head_dim, whole tiles
  float scale_;
  Head queries_, keys_, values_, outputs_;
  std::vector<float> scores_, products_;               // [12, padded]
  std::vector<Bf16> score_gradients_, probabilities_;  // [12, padded]
  std::vector<float> log_sums_, means_;                // by query
  std::vector<float> query_, key_, value_, tile_;      // [tokens or 12, breadth]
};

}  // namespace

void causal_attention_backward_bf16(const AttentionSizes& sizes, const float* q, const float* k, const float* v, std::int64_t stride,
                                    const float* cosines, const float* sines, const Bf16* gradient, Bf16* to) {
  AttentionBackward attention(sizes, stride, cosines, sines);
  const std::int64_t shared = sizes.heads / sizes.kv_heads, d = sizes.head_dim, query = sizes.heads * d, key = sizes.kv_heads * d;
  for (std::int64_t kv = 0; kv < sizes.kv_heads; ++kv) {
    attention.set_key_value_head(k + kv * d, v + kv * d);
    for (std::int64_t head = kv * shared; head < (kv + 1) * shared; ++head) {
      attention.add_query_head(q + head * d, gradient + head * d, query, to + head * d, query + 2 * key);
    }
    attention.store_key_value(to + query + kv * d, to + query + key + kv * d, query + 2 * key);
  }
}

}  // namespace miq
