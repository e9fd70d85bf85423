// Widths that divide one range. With R the range of a row, multiples of R/3, R/7, R/15, R/63 and R/255 are all
// multiples of R/5355, the least common multiple. The largest magnitude of a row is some allowed multiple of
// it, one of about 320: each is tried as the one, and refuted by the first weight that then lies on none of the
// lattices. What is left says for every weight which widths it may have; a column has those that all rows allow.
#include "miq/converters/lattice_groups.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "miq/converters/lattice_scale.h"

namespace miq {
namespace {

constexpr int kCommon = 5355;
constexpr std::array<int, 5> kWidths{2, 3, 4, 6, 8};
constexpr std::uint8_t kAllWidths = 0b11111;
constexpr std::int64_t kUnitRows = 16;
constexpr std::int64_t kFirstRows = 4;

int unit_of(std::size_t width) { return kCommon / ((1 << kWidths[width]) - 1); }

// Multiples that a weight of some width may be.
std::vector<int> allowed_multiples() {
  std::vector<int> multiples;
  for (std::size_t w = 0; w < kWidths.size(); ++w) {
    for (int k = unit_of(w); k <= kCommon; k += unit_of(w)) multiples.push_back(k);
  }
  std::ranges::sort(multiples);
  multiples.erase(std::ranges::unique(multiples).begin(), multiples.end());
  return multiples;
}

// A weight's magnitude and how far its own rounding and the scale's may have moved it, relative.
struct Magnitude {
  double value = 0, error = 0;
};

Magnitude magnitude_of(std::uint32_t bits, DType dtype) {
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude == 0) return {};
  const double value = std::bit_cast<float>(magnitude);
  double error = 1.0 / (1 << 23);  // of a float32 scale and product
  if (dtype != DType::F32) {
    const FloatRange range = numbers_rounding_to(magnitude, dtype);
    // Above a power of two the numbers lie twice as far apart as below it.
    error += std::max(static_cast<double>(range.high_value()) - value, value - static_cast<double>(range.low_value())) / value;
  }
  return {value, error};
}

// One row at a time; buffers are kept.
class RowWidths {
 public:
  RowWidths(const FloatMatrix& matrix, const std::vector<int>& multiples) : matrix_(matrix), multiples_(multiples) {
    const auto cols = static_cast<std::size_t>(matrix.cols);
    bits_.resize(cols);
    magnitudes_.resize(cols);
    widths_.resize(cols);
    allowed_.resize(cols);
  }

  // Widths that each column may have, by this row; false when no range explains the row.
  bool read(std::int64_t row) {
    matrix_.read_row(row, bits_);
    Magnitude largest;
    for (std::size_t c = 0; c < bits_.size(); ++c) {
      magnitudes_[c] = magnitude_of(bits_[c], matrix_.dtype);
      if (magnitudes_[c].value > largest.value) largest = magnitudes_[c];
    }
    if (largest.value == 0) {
      std::ranges::fill(allowed_, kAllWidths);
      return true;
    }
    std::ranges::fill(allowed_, std::uint8_t{0});
    bool any = false;
    for (const int multiple : multiples_) {
      if (!try_range(largest, multiple)) continue;
      any = true;
      for (std::size_t c = 0; c < allowed_.size(); ++c) allowed_[c] |= widths_[c];
    }
    return any;
  }
  std::span<const std::uint8_t> allowed() const { return allowed_; }

 private:
  bool try_range(const Magnitude& largest, int multiple) {
    const double step = largest.value / multiple;
    for (std::size_t c = 0; c < magnitudes_.size(); ++c) {
      widths_[c] = kAllWidths;
      if (magnitudes_[c].value == 0) continue;
      widths_[c] = widths_near(magnitudes_[c].value / step, magnitudes_[c].error + largest.error);
      if (widths_[c] == 0) return false;
    }
    return true;
  }

  // Widths with a multiple within `error` (relative) of `position`, in steps of R / 5355.
  static std::uint8_t widths_near(double position, double error) {
    const double tolerance = position * error * 1.01;  // errors multiply as well as add
    unsigned widths = 0;
    for (std::size_t w = 0; w < kWidths.size(); ++w) {
      const double unit = unit_of(w), nearest = std::max(1.0, std::nearbyint(position / unit)) * unit;
      widths |= static_cast<unsigned>(std::abs(nearest - position) <= tolerance && nearest <= kCommon) << w;
    }
    return static_cast<std::uint8_t>(widths);
  }

  const FloatMatrix& matrix_;
  const std::vector<int>& multiples_;
  std::vector<std::uint32_t> bits_;
  std::vector<Magnitude> magnitudes_;
  std::vector<std::uint8_t> widths_, allowed_;
};

// f16_to_f32() without branches, so that rows are read by vectors. Moving the exponent by a product widens
// subnormal numbers too; infinity and NaN get the exponent that the product does not reach.
inline std::uint32_t widened_f16(std::uint32_t half) {
  const std::uint32_t scaled = std::bit_cast<std::uint32_t>(std::bit_cast<float>((half & 0x7FFFu) << 13) * 0x1p112f);
  return scaled | (half & 0x8000u) << 16 | ((half & 0x7C00u) == 0x7C00u ? 0x7F800000u : 0u);
}

}  // namespace

void FloatMatrix::read_row(std::int64_t r, std::span<std::uint32_t> out) const {
  const std::uint8_t* from = data.data() + static_cast<std::size_t>(r * cols) * dtype_bytes(dtype);
  if (dtype == DType::F32) {
    std::memcpy(out.data(), from, out.size() * 4);
    return;
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint16_t half;
    std::memcpy(&half, from + i * 2, 2);
    out[i] = dtype == DType::BF16 ? static_cast<std::uint32_t>(half) << 16 : widened_f16(half);
  }
}

ColumnSharing share_by_row(std::int64_t cols) {
  ColumnSharing sharing = share_by_runs(cols, cols);
  sharing.kind = "row";
  sharing.group_size = 0;
  return sharing;
}

ColumnSharing share_by_runs(std::int64_t cols, std::int64_t group_size) {
  ColumnSharing sharing;
  sharing.kind = "groups";
  sharing.group_size = group_size;
  sharing.columns.resize(static_cast<std::size_t>((cols + group_size - 1) / group_size));
  for (std::int64_t c = 0; c < cols; ++c) {
    sharing.group_of_column.push_back(static_cast<std::uint16_t>(c / group_size));
    sharing.columns[static_cast<std::size_t>(c / group_size)].push_back(static_cast<std::uint32_t>(c));
  }
  return sharing;
}

std::optional<ColumnSharing> share_by_width(const FloatMatrix& matrix, ThreadPool& pool) {
  const std::vector<int> multiples = allowed_multiples();
  RowWidths first(matrix, multiples);
  for (std::int64_t r = 0; r < std::min(kFirstRows, matrix.rows); ++r) {
    if (!first.read(r)) return std::nullopt;
  }
  const std::int64_t units = (matrix.rows + kUnitRows - 1) / kUnitRows;
  const auto cols = static_cast<std::size_t>(matrix.cols);
  std::vector<std::uint8_t> allowed(static_cast<std::size_t>(units) * cols, kAllWidths);
  std::atomic<bool> refuted = false;
  pool.for_each(units, [&](std::int64_t unit) {
    RowWidths widths(matrix, multiples);
    for (std::int64_t r = unit * kUnitRows; r < std::min(matrix.rows, (unit + 1) * kUnitRows) && !refuted; ++r) {
      if (!widths.read(r)) refuted = true;
      for (std::size_t c = 0; c < cols; ++c) allowed[static_cast<std::size_t>(unit) * cols + c] &= widths.allowed()[c];
    }
  });
  if (refuted) return std::nullopt;

  // Groups in the order of their widths; only widths that have columns.
  std::vector<std::size_t> width_of(cols);
  std::array<std::int64_t, kWidths.size()> group_of_width;
  group_of_width.fill(-1);
  for (std::size_t c = 0; c < cols; ++c) {
    unsigned all = kAllWidths;
    for (std::int64_t unit = 0; unit < units; ++unit) all &= allowed[static_cast<std::size_t>(unit) * cols + c];
    if (all == 0) return std::nullopt;
    width_of[c] = static_cast<std::size_t>(std::countr_zero(all));
    group_of_width[width_of[c]] = 0;
  }
  ColumnSharing sharing;
  sharing.kind = "mixed";
  for (std::int64_t& group : group_of_width) {
    if (group < 0) continue;
    group = static_cast<std::int64_t>(sharing.columns.size());
    sharing.columns.emplace_back();
  }
  if (sharing.columns.size() < 2) return std::nullopt;
  for (std::size_t c = 0; c < cols; ++c) {
    const auto group = static_cast<std::uint16_t>(group_of_width[width_of[c]]);
    sharing.group_of_column.push_back(group);
    sharing.columns[group].push_back(static_cast<std::uint32_t>(c));
  }
  return sharing;
}

}  // namespace miq
