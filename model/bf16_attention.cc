// For each key/value head, the rotated keys and the values are packed once. Then, for twelve queries at
// a time, all scores up to the diagonal go into one buffer of 12 x tokens floats (second-level cache
// for usual windows), where the softmax's maximum is exact rather than running; its numerators,
// rounded to bfloat16, multiply the values in one product whose sums never leave registers. Panels of
// keys above the diagonal are never touched. In front of a window the numerators are zeros.
#include "miq/model/bf16_attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "miq/model/bf16_elementwise.h"

namespace miq {
namespace {

std::int64_t round_up(std::int64_t value, std::int64_t to) { return (value + to - 1) / to * to; }

class Attention {
 public:
  Attention(const AttentionSizes& sizes, std::int64_t stride, const float* cosines, const float* sines)
      : sizes_(sizes), stride_(stride), cosines_(cosines), sines_(sines), padded_(round_up(sizes.tokens, kTileColumns)),
        keys_(sizes.head_dim, padded_), values_(padded_, sizes.head_dim),
        rotated_(static_cast<std::size_t>(sizes.tokens * sizes.head_dim)), scores_(static_cast<std::size_t>(kTileRows * padded_)),
        numerators_(static_cast<std::size_t>(kTileRows * padded_)),
        mixed_(static_cast<std::size_t>(kTileRows * values_.padded_columns())) {}

  void set_key_value_head(const float* k, const float* v) {
    rotate(k);
    keys_.set_columns(0, rotated_.data(), sizes_.head_dim, sizes_.tokens);
    for (std::int64_t t = 0; t < sizes_.tokens; ++t) {
      scale_bf16(v + t * stride_, 1.0f, sizes_.head_dim, rotated_.data() + t * sizes_.head_dim);
    }
    values_.set_inner(0, rotated_.data(), sizes_.head_dim, sizes_.tokens);
  }

  void attend(const float* q, Bf16* to, std::int64_t to_stride) {
    rotate(q);
    for (std::int64_t first = 0; first < sizes_.tokens; first += kTileRows) {
      attend_rows(first, std::min(kTileRows, sizes_.tokens - first), to + first * to_stride, to_stride);
    }
  }

 private:
  void rotate(const float* x) {
    const std::int64_t half = sizes_.head_dim / 2;
    for (std::int64_t t = 0; t < sizes_.tokens; ++t) {
      rotate_bf16(x + t * stride_, cosines_ + t * half, sines_ + t * half, half, rotated_.data() + t * sizes_.head_dim);
    }
  }

  std::int64_t first_seen(std::int64_t token) const { return sizes_.window == 0 ? 0 : std::max<std::int64_t>(0, token - sizes_.window + 1); }

  void attend_rows(std::int64_t first, std::int64_t rows, Bf16* to, std::int64_t to_stride) {
    const std::int64_t d = sizes_.head_dim, seen = round_up(first + rows, kPanel);
    const Bf16* queries = rotated_.data() + first * d;
    for (std::int64_t key = first_seen(first) / kTileColumns * kTileColumns; key < seen; key += kTileColumns) {
      multiply_tile(queries, d, rows, keys_, key, std::min(kTileColumns, seen - key), d, scores_.data() + key, padded_);
    }
    float sums[kTileRows];
    const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(d)));
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t begin = first_seen(first + r), row = r * padded_;
      std::fill_n(numerators_.data() + row, begin, Bf16{0});
      sums[r] = softmax_numerators_bf16(scores_.data() + row + begin, first + r + 1 - begin, scale, seen - begin, numerators_.data() + row + begin);
    }
    const std::int64_t columns = values_.padded_columns();
    for (std::int64_t c = 0; c < columns; c += kTileColumns) {
      multiply_tile(numerators_.data(), padded_, rows, values_, c, c + kPanel < d ? kTileColumns : kPanel, round_up(first + rows, 2),
                    mixed_.data() + c, columns);
    }
    for (std::int64_t r = 0; r < rows; ++r) scale_bf16(mixed_.data() + r * columns, 1 / sums[r], d, to + r * to_stride);
  }

  const AttentionSizes& sizes_;
  std::int64_t stride_;
  const float *cosines_, *sines_;
  std::int64_t padded_;  // tokens, whole tiles
  PackedBf16 keys_, values_;
  std::vector<Bf16> rotated_;  // one head, [tokens, head_dim]
  std::vector<float> scores_;
  std::vector<Bf16> numerators_;
  std::vector<float> mixed_;
};

}  // namespace

void causal_attention_bf16(const AttentionSizes& sizes, const float* q, const float* k, const float* v, std::int64_t stride,
                           const float* cosines, const float* sines, Bf16* to) {
  Attention attention(sizes, stride, cosines, sines);
  const std::int64_t shared = sizes.heads / sizes.kv_heads, d = sizes.head_dim;
  for (std::int64_t kv = 0; kv < sizes.kv_heads; ++kv) {
    attention.set_key_value_head(k + kv * d, v + kv * d);
    for (std::int64_t head = kv * shared; head < (kv + 1) * shared; ++head) attention.attend(q + head * d, to + head * d, sizes.heads * d);
  }
}

}  // namespace miq
