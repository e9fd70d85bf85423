// One way of sharing scales after the other is tried, from the fewest scales to the most: first on a few rows,
// which refutes nearly everything that is not so, then on all. What fits every row is packed, with a mask or
// without, whichever is smaller by exact counting, decoded, and compared with the source.
#include "miq/converters/lattice.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "miq/base/error.h"
#include "miq/converters/lattice_groups.h"
#include "miq/converters/lattice_scale.h"

namespace miq {
namespace {

constexpr std::int64_t kUnitRows = 16;
constexpr std::int64_t kProbedRows = 4;
constexpr std::int64_t kLargestRun = 1024, kSmallestRun = 16;
// Weights without a lattice lie on one by accident less often than once in 2^32 matrices.
constexpr double kEnoughEvidence = 32;

enum class Refusal : std::uint8_t { None, TooMany, NoLattice, NotFinite };

// What one way of sharing found; scales by [group][row], as PackedMatrix has them.
struct Found {
  std::vector<FloatRange> scales;
  std::vector<std::uint8_t> zeros, span, negative, empty;  // span: levels of the set minus one
  std::vector<std::uint8_t> codes;                         // [rows * cols]
  std::vector<double> evidence;                            // [rows]
  bool needs_mask = false;                                 // a set holds both +0.0 and -0.0
};

int bits_for(int span) {
  for (const int bits : {2, 3, 4, 6}) {
    if (span < 1 << bits) return bits;
  }
  return 8;
}

// Fits rows one at a time; `out` may be null (a probe).
class RowFitter {
 public:
  RowFitter(const FloatMatrix& matrix, const ColumnSharing& sharing)
      : matrix_(matrix), sharing_(sharing), bits_(static_cast<std::size_t>(matrix.cols)) {}

  Refusal fit(std::int64_t row, Found* out, std::atomic<bool>* needs_mask) {
    matrix_.read_row(row, bits_);
    std::uint32_t largest = 0;
    for (const std::uint32_t bits : bits_) largest = std::max(largest, bits & 0x7FFFFFFFu);
    if (largest >= 0x7F800000u) return Refusal::NotFinite;
    double evidence = 0;
    for (std::size_t g = 0; g < sharing_.columns.size(); ++g) {
      const auto& columns = sharing_.columns[g];
      set_.clear();
      bool plus_zero = false, minus_zero = false;
      for (const std::uint32_t c : columns) {
        plus_zero |= bits_[c] == 0;
        minus_zero |= bits_[c] == 0x80000000u;
        if (!set_.add(bits_[c])) return Refusal::TooMany;
      }
      const auto fit = set_.fit(matrix_.dtype);
      if (!fit) return Refusal::NoLattice;
      evidence += fit->evidence;
      if (out == nullptr) continue;
      if (plus_zero && minus_zero) *needs_mask = true;
      store(row, g, *fit, minus_zero, *out);
    }
    if (out != nullptr) out->evidence[static_cast<std::size_t>(row)] = evidence;
    return Refusal::None;
  }

 private:
  // A zero times a negative scale is -0.0: where a set has that, all its multiples change their sign.
  void store(std::int64_t row, std::size_t g, const MagnitudeSet::Fit& fit, bool negative, Found& out) const {
    const std::size_t at = g * static_cast<std::size_t>(matrix_.rows) + static_cast<std::size_t>(row);
    const int zero = negative ? fit.above : fit.below;
    out.scales[at] = fit.scales;
    out.zeros[at] = static_cast<std::uint8_t>(zero);
    out.span[at] = static_cast<std::uint8_t>(fit.below + fit.above);
    out.negative[at] = negative;
    out.empty[at] = set_.size() == 0;
    std::uint8_t* codes = out.codes.data() + row * matrix_.cols;
    for (const std::uint32_t c : sharing_.columns[g]) {
      const int k = set_.multiple(bits_[c]);
      codes[c] = static_cast<std::uint8_t>(zero + (negative ? -k : k));
    }
  }

  const FloatMatrix& matrix_;
  const ColumnSharing& sharing_;
  std::vector<std::uint32_t> bits_;
  MagnitudeSet set_;
};

struct Refuted {
  std::int64_t row = -1;  // the first
  Refusal why = Refusal::None;
};

std::optional<Found> fit_rows(const FloatMatrix& matrix, const ColumnSharing& sharing, ThreadPool& pool, Refuted& refuted) {
  RowFitter probe(matrix, sharing);
  for (std::int64_t i = 0; i < std::min(kProbedRows, matrix.rows); ++i) {
    const std::int64_t row = i * matrix.rows / std::min(kProbedRows, matrix.rows);
    if (const Refusal why = probe.fit(row, nullptr, nullptr); why != Refusal::None) {
      refuted = {row, why};
      return std::nullopt;
    }
  }
  Found found;
  const std::size_t sets = sharing.columns.size() * static_cast<std::size_t>(matrix.rows);
  found.scales.resize(sets);
  for (auto* part : {&found.zeros, &found.span, &found.negative, &found.empty}) part->resize(sets);
  found.codes.resize(static_cast<std::size_t>(matrix.rows * matrix.cols));
  found.evidence.resize(static_cast<std::size_t>(matrix.rows));
  const std::int64_t units = (matrix.rows + kUnitRows - 1) / kUnitRows;
  std::vector<Refuted> of_unit(static_cast<std::size_t>(units));
  std::atomic<std::int64_t> first_refuted = units;  // units after it need not be looked at; those before must
  std::atomic<bool> needs_mask = false;
  pool.for_each(units, [&](std::int64_t unit) {
    if (unit > first_refuted) return;
    RowFitter fitter(matrix, sharing);
    for (std::int64_t r = unit * kUnitRows; r < std::min(matrix.rows, (unit + 1) * kUnitRows); ++r) {
      const Refusal why = fitter.fit(r, &found, &needs_mask);
      if (why == Refusal::None) continue;
      of_unit[static_cast<std::size_t>(unit)] = {r, why};
      for (std::int64_t first = first_refuted; unit < first && !first_refuted.compare_exchange_weak(first, unit);) {
      }
      return;
    }
  });
  if (first_refuted < units) {
    refuted = of_unit[static_cast<std::size_t>(first_refuted.load())];
    return std::nullopt;
  }
  found.needs_mask = needs_mask;
  return found;
}

// An F16 number within the range; NaN when there is none.
float half_within(const FloatRange& range) {
  std::uint16_t half = f32_to_f16(range.low_value());
  if (f16_to_f32(half) < range.low_value()) ++half;
  const float value = f16_to_f32(half);
  return value >= range.low_value() && value <= range.high_value() && std::isfinite(value) ? value
                                                                                           : std::numeric_limits<float>::quiet_NaN();
}

// One scale from each range: halves where every range has one, else the middle of each.
void choose_scales(const Found& found, PackedMatrix& packed) {
  packed.scale_dtype = DType::F16;
  packed.scales.resize(found.scales.size());
  for (std::size_t i = 0; i < found.scales.size(); ++i) {
    packed.scales[i] = half_within(found.scales[i]);
    if (std::isnan(packed.scales[i])) packed.scale_dtype = DType::F32;
  }
  for (std::size_t i = 0; i < found.scales.size(); ++i) {
    const FloatRange& range = found.scales[i];
    if (packed.scale_dtype == DType::F32 && !found.empty[i])
      packed.scales[i] = std::bit_cast<float>(range.low + (range.high - range.low) / 2);
    if (found.negative[i]) packed.scales[i] = -packed.scales[i];
  }
}

// Whether leaving the zeros' codes away pays for one bit a weight.
bool mask_pays(const FloatMatrix& matrix, const ColumnSharing& sharing, const std::vector<std::uint8_t>& bits,
               const std::vector<std::uint64_t>& zeros) {
  std::uint64_t without = 0, with = (static_cast<std::uint64_t>(matrix.rows * matrix.cols) + 7) / 8;
  for (std::size_t g = 0; g < bits.size(); ++g) {
    const std::uint64_t weights = sharing.columns[g].size() * static_cast<std::uint64_t>(matrix.rows);
    without += (weights * bits[g] + 7) / 8;
    with += ((weights - zeros[g]) * bits[g] + 7) / 8;
  }
  return with < without;
}

// Fills everything but `reason`.
Lattice assemble(const FloatMatrix& matrix, const ColumnSharing& sharing, Found found) {
  Lattice lattice;
  lattice.kind = sharing.kind;
  lattice.group_size = sharing.group_size;
  PackedMatrix packed;
  packed.rows = matrix.rows;
  packed.cols = matrix.cols;
  packed.group_of_column = sharing.group_of_column;
  const auto rows = static_cast<std::size_t>(matrix.rows);
  for (std::size_t g = 0; g < sharing.columns.size(); ++g) {
    packed.bits_of_group.push_back(static_cast<std::uint8_t>(bits_for(*std::max_element(
        found.span.begin() + static_cast<std::ptrdiff_t>(g * rows), found.span.begin() + static_cast<std::ptrdiff_t>((g + 1) * rows)))));
    lattice.columns_of_group.push_back(static_cast<std::int64_t>(sharing.columns[g].size()));
  }
  choose_scales(found, packed);
  packed.zeros = std::move(found.zeros);
  packed.codes = std::move(found.codes);
  // +0.0 has all bits zero; -0.0 keeps its code.
  std::vector<std::uint64_t> zeros_of_group(sharing.columns.size());
  std::vector<std::uint8_t> kept(packed.codes.size());
  std::vector<std::uint32_t> row(static_cast<std::size_t>(matrix.cols));
  for (std::int64_t r = 0; r < matrix.rows; ++r) {
    matrix.read_row(r, row);
    for (std::size_t c = 0; c < row.size(); ++c) {
      kept[static_cast<std::size_t>(r * matrix.cols) + c] = row[c] != 0;
      zeros_of_group[sharing.group_of_column[c]] += row[c] == 0;
      lattice.zeros += (row[c] & 0x7FFFFFFFu) == 0;
    }
  }
  lattice.masked = found.needs_mask || mask_pays(matrix, sharing, packed.bits_of_group, zeros_of_group);
  if (lattice.masked) packed.kept = std::move(kept);
  lattice.bits_of_group = packed.bits_of_group;
  lattice.scale_dtype = packed.scale_dtype;
  for (std::size_t i = 0; i < found.scales.size(); ++i) {
    if (found.empty[i]) continue;
    ++lattice.scales;
    lattice.proven_scales += found.scales[i].low == found.scales[i].high;
  }
  lattice.packed = pack(packed, matrix.dtype);
  return lattice;
}

std::string refusal_text(const Refuted& refuted) {
  const std::string row = "row " + std::to_string(refuted.row);
  switch (refuted.why) {
    case Refusal::TooMany:
      return row + " holds more than 255 different magnitudes";
    case Refusal::NotFinite:
      return row + " holds NaN or infinity";
    default:
      return row + " lies on no lattice of up to 256 levels";
  }
}

Lattice no_lattice(std::string reason) {
  Lattice none;
  none.reason = std::move(reason);
  return none;
}

// The first way of sharing that every row allows.
Lattice search(const FloatMatrix& matrix, ThreadPool& pool) {
  Refuted by_row, ignored;
  const auto attempt = [&](const ColumnSharing& sharing, Refuted& refuted) -> std::optional<Lattice> {
    auto found = fit_rows(matrix, sharing, pool, refuted);
    if (!found) return std::nullopt;
    double evidence = 0;
    for (const double bits : found->evidence) evidence += bits;
    if (evidence < kEnoughEvidence) return no_lattice("too few weights share a scale to tell a lattice from chance");
    return assemble(matrix, sharing, std::move(*found));
  };
  if (auto lattice = attempt(share_by_row(matrix.cols), by_row)) return std::move(*lattice);
  if (by_row.why == Refusal::NotFinite) return no_lattice(refusal_text(by_row));
  for (std::int64_t run = kLargestRun; run >= kSmallestRun; run /= 2) {
    if (run >= matrix.cols || (matrix.cols + run - 1) / run > 65536) continue;
    if (auto lattice = attempt(share_by_runs(matrix.cols, run), ignored)) return std::move(*lattice);
  }
  std::string nearly;
  for (const int way : {0, 1}) {
    const auto sharing = way == 0 ? share_by_width(matrix, pool) : share_by_ratios(matrix);
    if (!sharing) continue;
    if (auto lattice = attempt(*sharing, ignored)) return std::move(*lattice);
    nearly = "its columns lie nearly on several lattices, but those of row " + std::to_string(ignored.row) + " not to the last bit";
  }
  if (!nearly.empty()) return no_lattice(nearly);
  return no_lattice(refusal_text(by_row) + "; nor do runs of " + std::to_string(kSmallestRun) + " to " + std::to_string(kLargestRun) +
                    " columns, or groups of columns anywhere");
}

}  // namespace

Lattice find_lattice(const Tensor& tensor, std::string_view name, ThreadPool& pool) {
  const bool right_dtype = tensor.dtype == DType::F32 || tensor.dtype == DType::F16 || tensor.dtype == DType::BF16;
  if (!right_dtype) return no_lattice("its elements are " + std::string(dtype_name(tensor.dtype)) + ", not F32, F16 or BF16");
  if (tensor.shape.size() != 2) return no_lattice("it is no matrix");
  if (tensor.shape[0] < 1 || tensor.shape[1] < 1) return no_lattice("it is empty");
  const Blob data = decode(tensor, name, &pool);
  const FloatMatrix matrix{data.bytes(), tensor.dtype, tensor.shape[0], tensor.shape[1]};
  Lattice lattice = search(matrix, pool);
  if (!lattice.packed) return lattice;
  const Blob decoded = decode(*lattice.packed, name, &pool);
  if (!std::ranges::equal(decoded.bytes(), data.bytes())) return no_lattice("the lattice found does not give its elements to the last bit");
  return lattice;
}

}  // namespace miq
