// Rows are read once for the counts, and the kept magnitudes' quantile is taken of at most a fixed number of them
// (every k-th), so that a large matrix costs little more than its reading.
#include "miq/converters/weight_statistics.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>
#include <vector>

#include "miq/converters/lattice.h"
#include "miq/converters/lattice_groups.h"

namespace miq {
namespace {

constexpr std::int64_t kSampled = 1 << 18;   // magnitudes
constexpr std::int64_t kSearched = 1 << 20;  // weights in which a lattice is searched for
constexpr std::int64_t kPaletteRows = 64;

void count_row(std::span<const std::uint32_t> row, WeightStatistics& s, std::vector<std::int64_t>& block_zeros) {
  std::int64_t zeros = 0;
  std::vector<std::uint8_t> is_zero(row.size());
  for (std::size_t c = 0; c < row.size(); ++c) {
    is_zero[c] = (row[c] & 0x7FFFFFFFu) == 0;
    zeros += is_zero[c];
    if (const std::size_t block = c / WeightStatistics::kBlock; block < block_zeros.size()) block_zeros[block] += is_zero[c];
  }
  s.zeros += zeros;
  s.row_zeros_min = std::min(s.row_zeros_min, zeros);
  s.row_zeros_max = std::max(s.row_zeros_max, zeros);
  for (std::size_t i = 0; i < s.kRuns.size(); ++i) {
    const auto run = static_cast<std::size_t>(s.kRuns[i]);
    for (std::size_t c = 0; c + run <= row.size(); c += run) {
      std::int64_t in_run = 0;
      for (std::size_t j = c; j < c + run; ++j) in_run += is_zero[j];
      s.run_zeros_min[i] = std::min(s.run_zeros_min[i], in_run);
      ++s.runs[i];
    }
  }
}

// Different values in runs of kPalette columns.
void count_palettes(std::span<const std::uint32_t> row, WeightStatistics& s, std::int64_t& runs) {
  constexpr auto run = static_cast<std::size_t>(WeightStatistics::kPalette);
  std::array<std::uint32_t, run> values;
  for (std::size_t c = 0; c + run <= row.size(); c += run, ++runs) {
    std::copy_n(row.begin() + static_cast<std::ptrdiff_t>(c), run, values.begin());
    s.palette_filled += static_cast<double>(std::ranges::count_if(values, [](std::uint32_t bits) { return (bits & 0x7FFFFFFFu) != 0; }));
    std::ranges::sort(values);
    s.palette_max = std::max<std::int64_t>(s.palette_max, std::ranges::unique(values).begin() - values.begin());
  }
}

WeightStatistics count(const FloatMatrix& matrix) {
  WeightStatistics s;
  s.rows = matrix.rows;
  s.cols = s.row_zeros_min = matrix.cols;
  s.run_zeros_min = WeightStatistics::kRuns;
  std::vector<std::int64_t> block_zeros(static_cast<std::size_t>(matrix.cols / WeightStatistics::kBlock));
  std::vector<std::uint32_t> row(static_cast<std::size_t>(matrix.cols)), magnitudes;
  std::uint32_t smallest = 0x7F800000u;
  const std::int64_t stride = std::max<std::int64_t>(1, matrix.rows * matrix.cols / kSampled);
  std::int64_t palettes = 0;
  std::int64_t next = 0;  // steps of the sample carry on from row to row
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    matrix.read_row(r, row);
    count_row(row, s, block_zeros);
    if (r < kPaletteRows) count_palettes(row, s, palettes);
    for (std::uint32_t& bits : row) bits &= 0x7FFFFFFFu;
    for (const std::uint32_t bits : row) smallest = bits != 0 ? std::min(smallest, bits) : smallest;
    for (; next < matrix.cols; next += stride) {
      if (row[static_cast<std::size_t>(next)] != 0) magnitudes.push_back(row[static_cast<std::size_t>(next)]);
    }
    next -= matrix.cols;
  }
  s.blocks = static_cast<std::int64_t>(block_zeros.size());
  if (s.blocks > 0) {
    s.block_zeros_min = std::ranges::min(block_zeros);
    s.block_zeros_max = std::ranges::max(block_zeros);
  }
  if (palettes > 0) s.palette_filled /= static_cast<double>(palettes * WeightStatistics::kPalette);
  if (!magnitudes.empty()) {
    const auto quantile = magnitudes.begin() + static_cast<std::ptrdiff_t>(magnitudes.size() / 100);
    std::nth_element(magnitudes.begin(), quantile, magnitudes.end());
    s.edge = static_cast<double>(std::bit_cast<float>(smallest)) / static_cast<double>(std::bit_cast<float>(*quantile));
  }
  return s;
}

// Bits and sharing of a packed tensor, and how many of its zeros were pruned.
void describe_lattice(const Tensor& packed, const std::string& name, const std::string& sharing, WeightStatistics& s) {
  const PackedMatrix m = unpack(packed, name);
  std::set<unsigned> widths(m.bits_of_group.begin(), m.bits_of_group.end());
  for (const unsigned bits : widths) s.bits += (s.bits.empty() ? "" : "+") + std::to_string(bits);
  s.sharing = sharing;
  s.lattice = true;
  std::vector<std::array<double, 3>> near_zero(m.bits_of_group.size());  // weights at 0, 1 and 2 steps from zero
  for (std::int64_t r = 0; r < m.rows; ++r) {
    for (std::int64_t c = 0; c < m.cols; ++c) {
      const auto at = static_cast<std::size_t>(r * m.cols + c),
                 group = static_cast<std::size_t>(m.group_of_column[static_cast<std::size_t>(c)]);
      const int k = !m.kept.empty() && !m.kept[at]
                        ? 0
                        : int{m.codes[at]} - int{m.zeros[group * static_cast<std::size_t>(m.rows) + static_cast<std::size_t>(r)]};
      if (std::abs(k) <= 2) ++near_zero[group][static_cast<std::size_t>(std::abs(k))];
    }
  }
  // Rounded zeros, as a bell curve through the steps beside them has it (both sides are counted together).
  double pruned = 0;
  for (const auto& [zero, one, two] : near_zero) {
    const double rounded = one / 2 * (two > 0 ? std::cbrt(std::max(1.0, one / two)) : 1.0);
    pruned += std::max(0.0, zero - rounded);
  }
  s.pruned = pruned / static_cast<double>(m.rows * m.cols);
}

std::string packed_sharing(const Tensor& packed, const std::string& name) {
  const PackedMatrix m = unpack(packed, name);
  if (m.groups() == 1) return "row";
  const bool runs = std::ranges::is_sorted(m.group_of_column);
  const auto first = std::ranges::count(m.group_of_column, m.group_of_column.front());
  return runs ? "groups of " + std::to_string(first) : "mixed";
}

}  // namespace

std::optional<WeightStatistics> weight_statistics(const Tensor& tensor, const std::string& name, ThreadPool& pool) {
  if (tensor.shape.size() != 2 || tensor.elements() == 0) return std::nullopt;
  if (tensor.dtype != DType::F32 && tensor.dtype != DType::F16 && tensor.dtype != DType::BF16) return std::nullopt;
  const Blob data = decode(tensor, name, &pool);
  WeightStatistics s = count({data.bytes(), tensor.dtype, tensor.shape[0], tensor.shape[1]});
  s.pruned = static_cast<double>(s.zeros) / static_cast<double>(s.rows * s.cols);
  s.lattice_rows = s.rows;
  if (tensor.encoding == Encoding::Packed) {
    describe_lattice(tensor, name, packed_sharing(tensor, name), s);
    return s;
  }
  s.lattice_rows = std::min(s.rows, std::max<std::int64_t>(64, kSearched / s.cols));
  const Tensor part =
      dense_tensor(tensor.dtype, {s.lattice_rows, s.cols},
                   data.slice(0, data.size() / static_cast<std::size_t>(s.rows) * static_cast<std::size_t>(s.lattice_rows)));
  if (const Lattice lattice = find_lattice(part, name, pool); lattice.packed) {
    describe_lattice(*lattice.packed, name, lattice.kind == "groups" ? "groups of " + std::to_string(lattice.group_size) : lattice.kind, s);
  }
  return s;
}

}  // namespace miq
