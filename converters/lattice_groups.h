// Inside the room: ways in which the columns of a matrix may share scales. See lattice.h.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "miq/base/blob.h"
#include "miq/base/thread_pool.h"
#include "miq/formats/dtype.h"

namespace miq {

// A dense [rows, cols] of F32, F16 or BF16; the elements are read as the bits of the widened float32.
struct FloatMatrix {
  Bytes data;
  DType dtype = DType::F32;
  std::int64_t rows = 0, cols = 0;
  // Row r into `out` [cols].
  void read_row(std::int64_t r, std::span<std::uint32_t> out) const;
};

struct ColumnSharing {
  std::string kind;             // "row", "groups", "mixed"
  std::int64_t group_size = 0;  // "groups" only
  std::vector<std::uint16_t> group_of_column;
  std::vector<std::vector<std::uint32_t>> columns;  // of each group, ascending
};

ColumnSharing share_by_row(std::int64_t cols);
ColumnSharing share_by_runs(std::int64_t cols, std::int64_t group_size);
// Columns by width, where every row has one range R and a column of width b holds multiples of R / (2^b - 1),
// rounded: a column gets the smallest of the widths 2, 3, 4, 6, 8 that all rows allow. Nothing when a
// row allows none, or when all columns have one width. Then nothing is promised beyond "nearly on": roundings are
// the caller's to check. A matrix that is not of this kind costs a look at its first rows.
std::optional<ColumnSharing> share_by_width(const FloatMatrix& matrix, ThreadPool& pool);
// Columns by scale, where groups of at least 4 columns lying anywhere have scales of their own in every row that have
// nothing to do with each other (lattice_ratios.cc). F32, and F16 where all groups have at most 4 bits; promises as
// little as share_by_width.
std::optional<ColumnSharing> share_by_ratios(const FloatMatrix& matrix);

}  // namespace miq
