// The smallest magnitude of a set is j steps of its lattice, for a small j that is not known: 1, 2, … are
// tried, coarsest lattice first. Each j leaves an interval of scales; the other magnitudes, ascending, have
// one possible multiple each (the interval is narrow), which narrows it further or empties it. A magnitude
// that has several possible multiples, as 16-bit casts of large multiples may, waits until the interval is
// narrower. All intervals are of float32 numbers and exact: multiplication and rounding are monotonic, so
// their ends are found by trying the numbers next to an estimate.
#include "miq/converters/lattice_scale.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace miq {
namespace {

constexpr std::uint32_t kLargest = 0x7F7FFFFFu;  // the largest finite float32
constexpr double kSlack = 1.0 / (1 << 22);       // wider than the rounding of a product
constexpr double kSmallest = 1.4012984643248171e-45;

double value_of(std::uint32_t bits) { return static_cast<double>(std::bit_cast<float>(bits)); }

}  // namespace

FloatRange numbers_rounding_to(std::uint32_t magnitude, DType dtype) {
  if (dtype == DType::F32) return {magnitude, magnitude};
  if (dtype == DType::BF16) {
    // Rounding adds 0x7FFF, and 1 more where the upper half is odd: ties go to the even one.
    const std::uint32_t odd = (magnitude >> 16) & 1;
    const std::uint32_t high = magnitude + 0x8000u - odd;
    return {magnitude - 0x8000u + odd, std::min(high, kLargest)};
  }
  const std::uint16_t half = f32_to_f16(std::bit_cast<float>(magnitude));
  const std::uint32_t odd = half & 1;
  // 65504 ends where 65536 would begin.
  const double here = f16_to_f32(half), below = f16_to_f32(static_cast<std::uint16_t>(half - 1));
  const double above = half == 0x7BFF ? 65536.0 : f16_to_f32(static_cast<std::uint16_t>(half + 1));
  // Midpoints of neighbouring halves are float32 numbers.
  const auto low = std::bit_cast<std::uint32_t>(static_cast<float>((below + here) / 2));
  const auto high = std::bit_cast<std::uint32_t>(static_cast<float>((here + above) / 2));
  return {low + odd, high - odd};
}

FloatRange scales_giving(const FloatRange& products, int k) {
  const float factor = static_cast<float>(k);
  const auto product = [&](std::uint32_t scale) { return std::bit_cast<float>(scale) * factor; };
  const float lowest = products.low_value(), highest = products.high_value();
  FloatRange scales{std::bit_cast<std::uint32_t>(lowest / factor), std::bit_cast<std::uint32_t>(highest / factor)};
  while (scales.low > 1 && product(scales.low - 1) >= lowest) --scales.low;
  while (scales.low < kLargest && (scales.low == 0 || product(scales.low) < lowest)) ++scales.low;
  while (scales.high < kLargest && product(scales.high + 1) <= highest) ++scales.high;
  while (scales.high > 0 && product(scales.high) > highest) --scales.high;
  return scales;
}

void MagnitudeSet::clear() {
  ++generation_;
  if (generation_ == 0) {  // every stamp could look current
    stamp_.fill(0);
    generation_ = 1;
  }
  size_ = 0;
  largest_positive_ = largest_negative_ = 0;
}

// Narrows `scales` to those that give magnitude i. True also where it has several possible multiples and
// `decide` is false: then its multiple is 0 for now.
bool MagnitudeSet::place(std::size_t i, FloatRange& scales, bool decide) {
  const FloatRange& products = products_[i];
  const double lowest = value_of(products.low) * (1 - kSlack) - kSmallest, highest = value_of(products.high) * (1 + kSlack) + kSmallest;
  const double first = std::max(1.0, std::ceil(lowest / value_of(scales.high))),
               last = std::min(255.0, std::floor(highest / value_of(scales.low)));
  if (first > last) return false;
  if (last > first && !decide) {
    multiple_[i] = 0;
    return true;
  }
  // The nearest first, then those around it.
  const double middle = (value_of(scales.low) + value_of(scales.high)) / 2;
  const int nearest = static_cast<int>(std::clamp(std::round(value_of(value_[i]) / middle), first, last));
  for (int distance = 0; distance <= static_cast<int>(last - first); ++distance) {
    for (const int k : {nearest - distance, nearest + distance}) {
      if (k < first || k > last) continue;
      const FloatRange giving = scales_giving(products, k);
      const FloatRange both{std::max(scales.low, giving.low), std::min(scales.high, giving.high)};
      if (both.empty()) continue;
      scales = both;
      multiple_[i] = k;
      return true;
    }
  }
  return false;
}

// The scales when the smallest magnitude is `first` steps.
std::optional<FloatRange> MagnitudeSet::fit_with(int first) {
  FloatRange scales = scales_giving(products_[order_[0]], first);
  if (scales.empty()) return std::nullopt;
  multiple_[order_[0]] = first;
  bool open = false;
  for (int n = 1; n < size_; ++n) {
    const std::size_t i = order_[static_cast<std::size_t>(n)];
    if (!place(i, scales, false)) return std::nullopt;
    open |= multiple_[i] == 0;
  }
  for (const bool decide : {false, true}) {
    for (int n = 1; open && n < size_; ++n) {
      const std::size_t i = order_[static_cast<std::size_t>(n)];
      if (multiple_[i] == 0 && !place(i, scales, decide)) return std::nullopt;
    }
  }
  return scales;
}

// A weight that knows nothing of the lattice hits it with a probability of about its own spacing over the
// scale. One weight is free, since it makes the scale, and so is the choice of the first multiple.
double MagnitudeSet::evidence(const FloatRange& scales) const {
  double bits = -8;
  for (int n = 0; n < size_; ++n) {
    const std::size_t i = order_[static_cast<std::size_t>(n)];
    const double spacing = products_[i].low == products_[i].high ? value_of(value_[i] + 1) - value_of(value_[i])
                                                                 : value_of(products_[i].high) - value_of(products_[i].low);
    bits += std::max(0.0, std::log2(value_of(scales.low) / spacing)) * static_cast<double>(count_[i] - (n == 0));
  }
  return bits;
}

std::optional<MagnitudeSet::Fit> MagnitudeSet::fit(DType dtype) {
  constexpr std::uint32_t one = 0x3F800000u;
  if (size_ == 0) return Fit{{one, one}, 0, 0, 0};
  const auto size = static_cast<std::size_t>(size_);
  for (std::size_t i = 0; i < size; ++i) products_[i] = numbers_rounding_to(value_[i], dtype);
  std::iota(order_.begin(), order_.begin() + size_, std::uint16_t{0});
  std::sort(order_.begin(), order_.begin() + size_, [&](std::uint16_t a, std::uint16_t b) { return value_[a] < value_[b]; });
  // More steps for the smallest magnitude would put the largest ones more than 255 apart.
  const auto lowest_of = [&](std::uint32_t magnitude) {
    return magnitude == 0 ? 0.0 : value_of(numbers_rounding_to(magnitude, dtype).low);
  };
  const double smallest = value_of(products_[order_[0]].high), span = lowest_of(largest_positive_) + lowest_of(largest_negative_);
  const int most = static_cast<int>(std::clamp(255.0 * (1 + kSlack) * smallest / span + 1, 0.0, 255.0));
  for (int first = 1; first <= most; ++first) {
    const auto scales = fit_with(first);
    if (!scales) continue;
    Fit fit;
    fit.scales = *scales;
    if (largest_positive_ != 0) fit.above = multiple(largest_positive_);
    if (largest_negative_ != 0) fit.below = -multiple(largest_negative_ | 0x80000000u);
    if (fit.below + fit.above > 255) continue;
    fit.evidence = evidence(fit.scales);
    return fit;
  }
  return std::nullopt;
}

}  // namespace miq
