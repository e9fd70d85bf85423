// Inside the room: what writer and reader of containers agree on (spec/miq.md).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "miq/formats/json.h"
#include "miq/formats/safetensors.h"
#include "miq/formats/tensor.h"

namespace miq::container {

inline constexpr std::uint64_t kVersion = 1;
inline constexpr std::uint64_t kAlignment = 64;
inline constexpr std::uint64_t kChunk = 1u << 20;

inline constexpr std::string_view kTable = "miq/tensors.json";
inline constexpr std::string_view kManifest = "miq/manifest.json";
inline constexpr std::string_view kChecksums = "miq/checksums";
inline constexpr std::string_view kFilePrefix = "miq/files/";
inline constexpr std::string_view kReserved = "miq/";

// Precedes the 32 digits of the header's digest. A quotation mark within a JSON string is escaped, so
// these bytes can only be the key itself.
inline constexpr std::string_view kHeaderDigestKey = "\"header_digest\":\"";
inline constexpr std::size_t kDigestDigits = 32;

constexpr std::uint64_t padded(std::uint64_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }
constexpr std::uint64_t chunks_of(std::uint64_t size) { return size / kChunk + (size % kChunk != 0); }

// JSON sections are filled up with spaces, which JSON allows at its end; the others with zero bytes.
constexpr std::uint8_t filling(std::string_view stored_name) { return stored_name == kTable || stored_name == kManifest ? ' ' : 0; }

inline std::string section_name(std::string_view tensor, std::string_view section) {
  return std::string(tensor) + "#" + std::string(section);
}

// What the name of a tensor or of a file may be; the text says what is wrong with it, or is empty.
std::string fault_of_tensor_name(std::string_view name);
std::string fault_of_file_name(std::string_view name);

// The digest of a header (its 8 length bytes included) with the digits of its own digest taken as '0';
// an empty string where there is no such field.
std::string header_digest(std::string_view header);
// Where the digits are; npos where there are none.
std::size_t header_digest_at(std::string_view header);

}  // namespace miq::container
