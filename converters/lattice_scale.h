// Inside the room: one set of weights that may share a scale (a row, or a row within a group of columns). Finds
// the integers k and every float32 scale s with   dtype(float32(s * k)) == weight   for all of them, by
// intervals that are exact to the last bit. See lattice.h for what it is for.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <optional>

#include "miq/formats/dtype.h"

namespace miq {

// Float32 numbers >= 0 by their bits, which are in the numbers' order; empty where low > high.
struct FloatRange {
  std::uint32_t low = 0, high = 0;
  bool empty() const { return low > high; }
  float low_value() const { return std::bit_cast<float>(low); }
  float high_value() const { return std::bit_cast<float>(high); }
};

// The float32 numbers that round to the positive finite `magnitude` (the bits of the widened float32) of `dtype`,
// which is F32, F16 or BF16.
FloatRange numbers_rounding_to(std::uint32_t magnitude, DType dtype);
// The scales s > 0, finite, for which float32(s * k) lies in `products`; k in 1..255.
FloatRange scales_giving(const FloatRange& products, int k);

// The distinct magnitudes of a set, and after fit() the multiple of the scale that each is.
class MagnitudeSet {
 public:
  // 256 levels around zero hold 255 other magnitudes at most.
  static constexpr int kMost = 255;

  void clear();
  // `bits` of a finite float32. False when there are more than kMost magnitudes: no lattice.
  bool add(std::uint32_t bits) {
    const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude == 0) return true;
    std::uint32_t& largest = bits >> 31 ? largest_negative_ : largest_positive_;
    if (magnitude > largest) largest = magnitude;
    const unsigned slot = find(magnitude);
    if (stamp_[slot] == generation_) {
      ++count_[index_[slot]];
      return true;
    }
    if (size_ == kMost) return false;
    stamp_[slot] = generation_;
    key_[slot] = magnitude;
    index_[slot] = static_cast<std::uint16_t>(size_);
    count_[static_cast<std::size_t>(size_)] = 1;
    value_[static_cast<std::size_t>(size_++)] = magnitude;
    return true;
  }
  int size() const { return size_; }

  struct Fit {
    FloatRange scales;         // every scale that gives all the weights with these multiples
    int below = 0, above = 0;  // multiples run from -below to above, 0 included; below + above <= 255
    double evidence = 0;       // bits: how unlikely weights that know of no lattice are to lie on this one
  };
  // The coarsest lattice of at most 256 levels. Sets without a weight other than zero fit every scale: the
  // range 1..1 is returned. Nothing when there is no lattice.
  std::optional<Fit> fit(DType dtype);
  // After fit(): the multiple of a weight that was added, signed.
  int multiple(std::uint32_t bits) const {
    const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude == 0) return 0;
    const int k = multiple_[index_[find(magnitude)]];
    return bits >> 31 ? -k : k;
  }

 private:
  static constexpr unsigned kSlots = 1024;
  unsigned find(std::uint32_t magnitude) const {
    unsigned slot = (magnitude * 0x9E3779B1u) >> 22;
    while (stamp_[slot] == generation_ && key_[slot] != magnitude) slot = (slot + 1) % kSlots;
    return slot;
  }
  std::optional<FloatRange> fit_with(int first);
  bool place(std::size_t i, FloatRange& scales, bool decide);
  double evidence(const FloatRange& scales) const;

  std::uint32_t generation_ = 0;
  std::array<std::uint32_t, kSlots> stamp_{}, key_{};
  std::array<std::uint16_t, kSlots> index_{};
  int size_ = 0;
  std::uint32_t largest_positive_ = 0, largest_negative_ = 0;
  // By index, in the order in which magnitudes were added.
  std::array<std::uint32_t, kMost> value_{}, count_{};
  std::array<int, kMost> multiple_{};
  std::array<FloatRange, kMost> products_{};  // numbers_rounding_to(value)
  std::array<std::uint16_t, kMost> order_{};  // ascending by value
};

}  // namespace miq
