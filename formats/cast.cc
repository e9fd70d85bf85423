// Every type goes through float32, which holds all of them but float64 exactly.
#include "miq/formats/cast.h"

#include <cmath>
#include <cstring>
#include <string>

#include "miq/base/error.h"

namespace miq {
namespace {

template <typename T>
T load(const std::uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// Calls store(i, value) for every element, widened or (float64) rounded to float32.
template <typename Store>
void each_f32(Bytes elements, DType from, const Store& store) {
  const std::uint8_t* at = elements.data();
  const std::size_t count = elements.size() / dtype_bytes(from);
  switch (from) {
    case DType::F8E4M3:
      for (std::size_t i = 0; i < count; ++i) store(i, f8e4m3_to_f32(at[i]), false);
      return;
    case DType::F8E5M2:  // the upper half of a float16
      for (std::size_t i = 0; i < count; ++i) store(i, f16_to_f32(static_cast<std::uint16_t>(at[i] << 8)), false);
      return;
    case DType::F16:
      for (std::size_t i = 0; i < count; ++i) store(i, f16_to_f32(load<std::uint16_t>(at + 2 * i)), false);
      return;
    case DType::BF16:
      for (std::size_t i = 0; i < count; ++i) store(i, bf16_to_f32(load<std::uint16_t>(at + 2 * i)), false);
      return;
    case DType::F32:
      for (std::size_t i = 0; i < count; ++i) store(i, load<float>(at + 4 * i), false);
      return;
    case DType::F64:
      for (std::size_t i = 0; i < count; ++i) {
        const double value = load<double>(at + 8 * i);
        const auto narrow = static_cast<float>(value);
        store(i, narrow, std::isfinite(value) && !std::isfinite(narrow));
      }
      return;
    default: return;
  }
}

}  // namespace

Blob cast_elements(const Blob& elements, DType from, DType to, std::string_view name) {
  if (from == to && is_floating(from)) return elements;
  if (!is_floating(from) || (to != DType::F32 && to != DType::F16 && to != DType::BF16)) {
    throw FormatError(name, std::string(dtype_name(from)) + " elements cannot be cast to " + std::string(dtype_name(to)));
  }
  const std::size_t width = dtype_bytes(to);
  std::vector<std::uint8_t> out(elements.size() / dtype_bytes(from) * width);
  bool overflow = false;
  each_f32(elements.bytes(), from, [&](std::size_t i, float value, bool overflowed) {
    if (to == DType::F32) {
      std::memcpy(&out[4 * i], &value, 4);
      overflow |= overflowed;
      return;
    }
    const std::uint16_t bits = to == DType::F16 ? f32_to_f16(value) : f32_to_bf16(value);
    const std::uint16_t infinity = to == DType::F16 ? 0x7c00 : 0x7f80;
    overflow |= overflowed || ((bits & 0x7fff) == infinity && std::isfinite(value));
    std::memcpy(&out[2 * i], &bits, 2);
  });
  if (overflow) {
    throw FormatError(name, "a value is too large for " + std::string(dtype_name(to)) + " and would become infinite", "Choose a wider type, such as BF16 or F32");
  }
  return Blob(std::move(out));
}

}  // namespace miq
