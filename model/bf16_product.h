// Matrix products of bfloat16 values with float32 sums on CPUs with AVX512-BF16: the right-hand matrix
// is packed once and used for many windows; results are handed over in small float32 tiles that are
// still in the first-level cache, so whatever follows a product (adding a residual, SiLU, the loss)
// costs no trip through memory.
//
// A sum runs over the inner dimension in order, in one accumulator an element: results do not depend on
// the number of rows, the thread, or the place of a row. (vdpbf16ps adds the products of a pair of
// neighbours at once and flushes subnormal numbers to zero.)
#pragma once

#include <cstdint>
#include <memory>

namespace miq {

// Whether this CPU and system can run the kernels; everything below REQUIRES it, packing excepted.
bool have_bf16_kernels();

// Bits of a bfloat16 number.
using Bf16 = std::uint16_t;

// Tiles are kTileRows x kTileColumns; matrices are padded to whole panels of kPanel columns.
inline constexpr std::int64_t kTileRows = 12, kPanel = 32, kTileColumns = 2 * kPanel;

// A matrix B [inner, columns]. Layout: panels of 32 columns; in a panel, for each pair of inner indices,
// 32 columns x 2 values. Padding is zero. `inner` is even.
class PackedBf16 {
 public:
  PackedBf16() = default;
  // All zero. Columns are rounded up to whole tiles.
  PackedBf16(std::int64_t inner, std::int64_t columns);

  std::int64_t inner() const { return inner_; }
  std::int64_t columns() const { return columns_; }  // as asked for
  std::int64_t padded_columns() const { return padded_; }

  // Column first + i becomes rows[i * stride + 0 … inner-1], i < count: packs a weight matrix [out, in].
  // `first` is a multiple of kPanel.
  void set_columns(std::int64_t first, const Bf16* rows, std::int64_t stride, std::int64_t count);
  // Inner index first + i becomes rows[i * stride + 0 … columns-1], i < count. `first` is even.
  void set_inner(std::int64_t first, const Bf16* rows, std::int64_t stride, std::int64_t count);

  const Bf16* panel(std::int64_t column) const { return data_.get() + column * inner_; }  // column % kPanel == 0

 private:
  struct Free {
    void operator()(Bf16* data) const;
  };
  std::int64_t inner_ = 0, columns_ = 0, padded_ = 0;
  std::unique_ptr<Bf16[], Free> data_;
};

// tile[r * stride + c] = sum over i < inner of a[r * lda + i] * B[i, column + c], for r < rows <= kTileRows,
// c < columns (kPanel or 2 * kPanel). `inner` is even and at most B's; lda is even. With `first` (even) the sum is over
// first <= i < inner instead.
void multiply_tile(const Bf16* a, std::int64_t lda, std::int64_t rows, const PackedBf16& b, std::int64_t column, std::int64_t columns,
                   std::int64_t inner, float* tile, std::int64_t stride, std::int64_t first = 0);

// The whole product of a [rows, inner] with B, tile by tile: sink(row, rows, column, tile), with
// tile[r * kTileColumns + c] for r < rows, c < kTileColumns. For one row, columns come in order.
template <class Sink>
void product(const Bf16* a, std::int64_t lda, std::int64_t rows, const PackedBf16& b, Sink&& sink) {
  // A stripe of rows stays in the second-level cache while all panels pass by.
  constexpr std::int64_t kStripeValues = 192 * 1024;
  const std::int64_t stripe = kTileRows * (kStripeValues / (b.inner() * kTileRows) > 0 ? kStripeValues / (b.inner() * kTileRows) : 1);
  alignas(64) float tile[kTileRows * kTileColumns];
  for (std::int64_t top = 0; top < rows; top += stripe) {
    const std::int64_t bottom = top + stripe < rows ? top + stripe : rows;
    for (std::int64_t column = 0; column < b.padded_columns(); column += kTileColumns) {
      for (std::int64_t row = top; row < bottom; row += kTileRows) {
        const std::int64_t count = bottom - row < kTileRows ? bottom - row : kTileRows;
        multiply_tile(a + row * lda, lda, count, b, column, kTileColumns, b.inner(), tile, kTileColumns);
        sink(row, count, column, static_cast<const float*>(tile));
      }
    }
  }
}

}  // namespace miq
