// Element types of stored tensors, by their safetensors names.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace miq {

// Values are not written to disk; names are.
enum class DType : std::uint8_t { Bool, U8, I8, U16, I16, U32, I32, U64, I64, F8E4M3, F8E5M2, F16, BF16, F32, F64 };

using Shape = std::vector<std::int64_t>;  // row-major, slowest dimension first; weights are [out, in]

std::size_t dtype_bytes(DType dtype);
// "F32", "BF16", "F8_E4M3", …
std::string_view dtype_name(DType dtype);
std::optional<DType> dtype_from_name(std::string_view name);
bool is_floating(DType dtype);

// Elements of `shape` times the element size; nothing where that overflows 64 bits.
std::optional<std::uint64_t> tensor_bytes(DType dtype, std::span<const std::int64_t> shape);

// Exact widening, and rounding to nearest even (overflow becomes infinity, as IEEE 754 has it).
float f16_to_f32(std::uint16_t bits);
float bf16_to_f32(std::uint16_t bits);
float f8e4m3_to_f32(std::uint8_t bits);  // OCP FP8 E4M3: no infinities, 0x7F and 0xFF are NaN, largest 448
std::uint16_t f32_to_f16(float value);
std::uint16_t f32_to_bf16(float value);

}  // namespace miq
