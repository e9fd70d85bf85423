// Columns anywhere, each group of them with scales of its own. Two weights of a row that share a scale are in the
// ratio of two integers of at most 255, which two others are only once in about a hundred rows of float32: the columns of a
// group are those whose ratios to one of them are such in every row that is looked at. Such a ratio is nearer
// to the quotient than 1 / (2 q^2), so it is one of the convergents of its continued fraction. After a cast to F16 that
// holds up to 15, that is for widths up to 4; BF16 is too coarse. Scales that are themselves in small ratios (widths
// that divide one range) are share_by_width's.
#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "miq/converters/lattice_groups.h"

namespace miq {
namespace {

constexpr std::int64_t kProbedRows = 256;
constexpr std::size_t kFewestColumns = 4;  // fewer would cost more for scales than codes save
constexpr int kEnoughRows = 24;            // of two weights other than zero
constexpr int kFewestRows = 6;

struct RatioTest {
  int limit;
  double tolerance;

  // Whether a / b is p / q with p, q in 1..limit, up to rounding; a, b > 0.
  bool operator()(double a, double b) const {
    const double x = a / b;
    double rest = x;
    double p = 1, q = 0, p_before = 0, q_before = 1;  // convergents; before the first: 1 / 0 and 0 / 1
    for (int i = 0; i < 16; ++i) {
      const double whole = std::floor(rest);
      p_before = std::exchange(p, whole * p + p_before);
      q_before = std::exchange(q, whole * q + q_before);
      if (p > limit || q > limit) return false;
      if (p > 0 && std::abs(p - x * q) <= tolerance * x * q) return true;
      if (rest == whole) return false;
      rest = 1 / (rest - whole);
    }
    return false;
  }
};

// Magnitudes of some rows, evenly spread, column by column.
class Probe {
 public:
  explicit Probe(const FloatMatrix& matrix) : rows_(static_cast<std::size_t>(std::min(matrix.rows, kProbedRows))) {
    const auto cols = static_cast<std::size_t>(matrix.cols);
    values_.resize(cols * rows_);
    std::vector<std::uint32_t> row(cols);
    for (std::size_t r = 0; r < rows_; ++r) {
      matrix.read_row(static_cast<std::int64_t>(r) * matrix.rows / static_cast<std::int64_t>(rows_), row);
      for (std::size_t c = 0; c < cols; ++c) values_[c * rows_ + r] = std::bit_cast<float>(row[c] & 0x7FFFFFFFu);
    }
  }

  std::int64_t nonzero(std::size_t column) const {
    return std::count_if(at(column), at(column) + rows_, [](float value) { return value != 0; });
  }
  // Whether the columns may share scales; false also where too few rows could tell.
  bool shares(std::size_t a, std::size_t b, const RatioTest& test) const {
    int rows = 0;
    for (std::size_t r = 0; r < rows_ && rows < kEnoughRows; ++r) {
      const float x = at(a)[r], y = at(b)[r];
      if (x == 0 || y == 0) continue;
      if (!test(x, y)) return false;
      ++rows;
    }
    return rows >= kFewestRows;
  }

 private:
  const float* at(std::size_t column) const { return values_.data() + column * rows_; }
  std::size_t rows_;
  std::vector<float> values_;
};

}  // namespace

std::optional<ColumnSharing> share_by_ratios(const FloatMatrix& matrix) {
  if (matrix.dtype == DType::BF16 || matrix.rows < kFewestRows) return std::nullopt;
  const RatioTest test = matrix.dtype == DType::F32 ? RatioTest{255, 1.0 / (1 << 21)} : RatioTest{15, 1.02 / (1 << 10)};
  const Probe probe(matrix);
  const auto cols = static_cast<std::size_t>(matrix.cols);
  constexpr std::uint16_t kNone = 0xFFFF;
  ColumnSharing sharing;
  sharing.kind = "mixed";
  sharing.group_of_column.assign(cols, kNone);
  std::vector<std::uint32_t> left, nothing;
  for (std::size_t c = 0; c < cols; ++c) (probe.nonzero(c) == 0 ? nothing : left).push_back(static_cast<std::uint32_t>(c));
  while (!left.empty()) {
    // The column that has most to say leads.
    const std::uint32_t leader = *std::ranges::max_element(left, {}, [&](std::uint32_t c) { return probe.nonzero(c); });
    std::vector<std::uint32_t> group, others;
    for (const std::uint32_t c : left) (c == leader || probe.shares(leader, c, test) ? group : others).push_back(c);
    if (group.size() < kFewestColumns) return std::nullopt;
    for (const std::uint32_t c : group) sharing.group_of_column[c] = static_cast<std::uint16_t>(sharing.columns.size());
    sharing.columns.push_back(std::move(group));
    left = std::move(others);
  }
  if (sharing.columns.size() < 2) return std::nullopt;
  for (const std::uint32_t c : nothing) {
    sharing.group_of_column[c] = 0;
    sharing.columns[0].push_back(c);
  }
  std::ranges::sort(sharing.columns[0]);
  return sharing;
}

}  // namespace miq
