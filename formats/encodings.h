// Inside the room: the parts that tensor.cc joins. Each encoding has a check of its sections (cheap:
// sizes, counts, values that must be finite) and a decoder that performs the same check first.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "miq/base/error.h"
#include "miq/formats/tensor.h"

namespace miq::encodings {

// The start of every message about one tensor.
inline std::string subject(std::string_view name) { return "tensor " + std::string(name); }

// tensor_bytes(), or FormatError for shapes that are negative or too large to address.
std::uint64_t decoded_bytes(const Tensor& tensor, std::string_view name);
// The bytes of a section; FormatError when it is missing.
Bytes section(const Tensor& tensor, std::string_view name, const char* which);
// FormatError unless the sections are exactly `required` plus any of `optional`.
void require_sections(const Tensor& tensor, std::string_view name, std::initializer_list<const char*> required,
                      std::initializer_list<const char*> optional = {});
void require_size(std::string_view name, const char* which, std::uint64_t found, std::uint64_t expected);

void check_zstd(const Tensor& tensor, std::string_view name);
void decode_zstd(const Tensor& tensor, std::string_view name, std::span<std::uint8_t> out);

void check_bitmask(const Tensor& tensor, std::string_view name);
void decode_bitmask(const Tensor& tensor, std::string_view name, std::span<std::uint8_t> out);

void check_ggml(const Tensor& tensor, std::string_view name);
void decode_ggml(const Tensor& tensor, std::string_view name, std::span<std::uint8_t> out, ThreadPool* pool);

}  // namespace miq::encodings
