// Arithmetic on numbers that a file or a user gave: the result, or nothing when it does not fit.
// Every size, count and offset read from a file goes through here; nothing else may multiply them.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <span>

namespace miq {

template <std::integral T>
constexpr std::optional<T> checked_add(T a, T b) {
  T sum{};
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

template <std::integral T>
constexpr std::optional<T> checked_mul(T a, T b) {
  T product{};
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

// Product of a shape's dimensions (1 for rank 0); nothing if one is negative or the product overflows.
constexpr std::optional<std::uint64_t> checked_elements(std::span<const std::int64_t> shape) {
  std::uint64_t elements = 1;
  bool has_zero = false;
  for (std::int64_t dimension : shape) {
    if (dimension < 0) return std::nullopt;
    has_zero |= dimension == 0;
  }
  if (has_zero) return 0;
  for (std::int64_t dimension : shape) {
    auto product = checked_mul(elements, static_cast<std::uint64_t>(dimension));
    if (!product) return std::nullopt;
    elements = *product;
  }
  return elements;
}

}  // namespace miq
