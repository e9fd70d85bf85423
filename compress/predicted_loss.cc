// Units are runs of rows. A row is gathered into processing order, each group padded to whole vectors with zeros (a zero is on every
// lattice, so the padding costs nothing), and quantized for every level and clip while it sits in the first-level cache. Each unit keeps its own
// column sums in float32; they are added in the units' order in double.
#include "miq/compress/predicted_loss.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "miq/base/error.h"
#include "miq/compress/not_finite.h"

namespace miq {
namespace {

constexpr std::int64_t kLane = 16;
using Lanes = float __attribute__((vector_size(64)));
constexpr float kClips[] = {1.0f, 0.9f, 0.8f, 0.7f, 0.6f, 0.5f};
constexpr int kLevelsWithoutClip = 6;  // from this many bits on, the full range is best
// Adding and subtracting 1.5 * 2^23 rounds to the nearest whole number, ties to even, for sizes below 2^22.
constexpr float kRounder = 12582912.0f;

// Where each group's padded run lies.
struct Layout {
  std::vector<std::int64_t> source;  // [padded] original column, or -1 for padding
  std::vector<std::int64_t> column;  // [padded] place in the processing order, or -1
  std::vector<std::int64_t> starts;  // [groups + 1], multiples of kLane
};

Layout padded_layout(const ChannelGroups& groups) {
  Layout layout;
  layout.starts.push_back(0);
  for (std::int64_t g = 0; g < groups.groups(); ++g) {
    for (std::int64_t k = groups.starts[g]; k < groups.starts[g + 1]; ++k) {
      layout.source.push_back(groups.order[k]);
      layout.column.push_back(k);
    }
    while (layout.source.size() % kLane != 0) layout.source.push_back(-1), layout.column.push_back(-1);
    layout.starts.push_back(static_cast<std::int64_t>(layout.source.size()));
  }
  return layout;
}

struct Lattice {
  float scale, lowest, highest;  // values scale * code, codes from lowest (<= 0) to highest (>= 0)
};

__attribute__((always_inline)) inline void squared_errors(const float* x, const Lattice& lattice, Lanes& out) {
  Lanes value;
  std::memcpy(&value, x, sizeof value);
  Lanes code = value * (1.0f / lattice.scale);
  const Lanes lowest = Lanes{} + lattice.lowest, highest = Lanes{} + lattice.highest;
  code = code < lowest ? lowest : code;
  code = code > highest ? highest : code;
  code = (code + kRounder) - kRounder;
  const Lanes error = code * lattice.scale - value;
  out = error * error;
}

__attribute__((always_inline)) inline float lane_sum(const Lanes& v) {
  float part[8];
  for (int i = 0; i < 8; ++i) part[i] = v[i] + v[i + 8];
  return ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
}

// Adds f * (w - q)^2 of one row's group, for every level, to sums[level][column].
__attribute__((target_clones("avx512f", "avx2", "default"))) void add_group(const float* x, std::int64_t size, float f, const int* levels,
                                                                           std::int64_t level_count, bool clip_search, float* sums, std::int64_t stride) {
  float low = 0, high = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  if (low == 0 && high == 0) return;  // all zeros: every level is exact
  for (std::int64_t l = 0; l < level_count; ++l) {
    const float codes = static_cast<float>((1 << levels[l]) - 1);
    const float scale = (high - low) / codes;
    const float zero = (-low / scale + kRounder) - kRounder;
    Lattice best{scale, -zero, codes - zero};
    if (clip_search && levels[l] < kLevelsWithoutClip) {
      float least = 0;
      for (float clip : kClips) {
        const Lattice trial{scale * clip, -zero, codes - zero};
        Lanes total{}, squares;
        for (std::int64_t i = 0; i < size; i += kLane) {
          squared_errors(x + i, trial, squares);
          total += squares;
        }
        const float sum = lane_sum(total);
        if (clip == 1.0f || sum < least) least = sum, best = trial;
      }
    }
    for (std::int64_t i = 0; i < size; i += kLane) {
      Lanes squares, sum;
      squared_errors(x + i, best, squares);
      std::memcpy(&sum, sums + l * stride + i, sizeof sum);
      sum += f * squares;
      std::memcpy(sums + l * stride + i, &sum, sizeof sum);
    }
  }
}

}  // namespace

std::vector<double> column_errors(const at::Tensor& weight, const ChannelGroups& groups, std::span<const double> row_sensitivity,
                                  ThreadPool& pool, std::span<const int> levels, bool clip) {
  const std::int64_t rows = weight.size(0), n = groups.channels();
  if (weight.dim() != 2 || weight.size(1) != n || weight.scalar_type() != at::kFloat || !weight.device().is_cpu())
    throw Error("predicted loss: the weight must be float32 [rows, " + std::to_string(n) + "] on the CPU");
  if (!row_sensitivity.empty() && static_cast<std::int64_t>(row_sensitivity.size()) != rows)
    throw Error("predicted loss: " + std::to_string(row_sensitivity.size()) + " row sensitivities for " + std::to_string(rows) + " rows");
  double largest = row_sensitivity.empty() ? 1 : 0;
  for (double f : row_sensitivity) {
    if (!(f >= 0) || !std::isfinite(f)) throw NotFinite("predicted loss: a row sensitivity is not a number >= 0");
    largest = std::max(largest, f);
  }
  const at::Tensor contiguous = weight.contiguous();
  const float* w = contiguous.const_data_ptr<float>();
  const Layout layout = padded_layout(groups);
  const auto padded = static_cast<std::int64_t>(layout.source.size());
  const auto level_count = static_cast<std::int64_t>(levels.size());
  const std::int64_t rows_per_unit = std::max<std::int64_t>(64, (rows + 63) / 64);
  const std::int64_t units = (rows + rows_per_unit - 1) / rows_per_unit;
  std::vector<std::vector<float>> parts(static_cast<std::size_t>(units));
  pool.for_each(units, [&](std::int64_t unit) {
    std::vector<float> sums(static_cast<std::size_t>(level_count * padded), 0.0f), row(static_cast<std::size_t>(padded), 0.0f);
    for (std::int64_t r = unit * rows_per_unit; r < std::min(rows, (unit + 1) * rows_per_unit); ++r) {
      const float f = row_sensitivity.empty() ? 1.0f : largest > 0 ? static_cast<float>(row_sensitivity[r] / largest) : 0.0f;
      for (std::int64_t i = 0; i < padded; ++i) row[i] = layout.source[i] >= 0 ? w[r * n + layout.source[i]] : 0.0f;
      for (std::int64_t g = 0; g < groups.groups(); ++g) {
        const std::int64_t start = layout.starts[g];
        add_group(row.data() + start, layout.starts[g + 1] - start, f, levels.data(), level_count, clip, sums.data() + start, padded);
      }
    }
    parts[unit] = std::move(sums);
  });
  std::vector<double> errors(static_cast<std::size_t>(level_count * n), 0.0);
  for (const auto& part : parts)
    for (std::int64_t l = 0; l < level_count; ++l)
      for (std::int64_t i = 0; i < padded; ++i)
        if (layout.column[i] >= 0) errors[l * n + layout.column[i]] += part[l * padded + i];
  for (double& error : errors) error *= largest;
  return errors;
}

std::vector<double> group_losses(std::span<const double> column_error, const ChannelGroups& groups, std::span<const double> energy,
                                 std::span<const double> kept, std::span<const int> levels) {
  const std::int64_t n = groups.channels();
  const auto level_count = static_cast<std::int64_t>(levels.size());
  if (static_cast<std::int64_t>(column_error.size()) != level_count * n || static_cast<std::int64_t>(energy.size()) != n ||
      (!kept.empty() && static_cast<std::int64_t>(kept.size()) != n))
    throw Error("predicted loss: column errors, energies and kept shares do not fit " + std::to_string(n) + " channels");
  std::vector<double> losses(static_cast<std::size_t>(groups.groups() * level_count), 0.0);
  for (std::int64_t k = 0; k < n; ++k) {
    const double factor = energy[groups.order[k]] * (kept.empty() ? 1.0 : kept[k]);
    for (std::int64_t l = 0; l < level_count; ++l) losses[groups.group_of[k] * level_count + l] += factor * column_error[l * n + k];
  }
  return losses;
}

std::vector<double> group_kept(const ChannelGroups& groups, std::int64_t rows, std::span<const double> kept) {
  if (!kept.empty() && static_cast<std::int64_t>(kept.size()) != groups.channels()) throw Error("kept shares do not fit the channels");
  std::vector<double> weights(static_cast<std::size_t>(groups.groups()), 0.0);
  for (std::int64_t k = 0; k < groups.channels(); ++k) weights[groups.group_of[k]] += kept.empty() ? 1.0 : kept[k];
  for (double& weight : weights) weight *= static_cast<double>(rows);
  return weights;
}

}  // namespace miq
