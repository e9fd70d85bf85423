// The safetensors format: 8 bytes of header length, a JSON header, then the tensors without gaps.
// Rules as the reference implementation has them (safetensors/src/tensor.rs). Stricter in this:
//   - a name or field given twice, an unknown field of a tensor, a tensor described by an array: refused
//   - dimensions beyond a signed 64-bit number, or overflowing beside a zero one: refused
//   - the sub-byte, complex and rarer 8-bit float types (F4, F6_*, F8_E8M0, F8_*FNUZ, C64): refused by name
// White space before the header's '{' is read (other writers align with it), and never written.
// Spec: https://github.com/huggingface/safetensors#format
#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "miq/base/blob.h"
#include "miq/formats/dtype.h"

namespace miq {

struct SafetensorsEntry {
  DType dtype = DType::F32;
  Shape shape;
  std::uint64_t begin = 0, end = 0;  // within the data part
};

struct SafetensorsFile {
  std::map<std::string, SafetensorsEntry> entries;  // ordered by name
  std::map<std::string, std::string> metadata;
  Blob file;                     // the whole file, mapped
  std::uint64_t data_begin = 0;  // offset of the data part in the file

  Blob data(const SafetensorsEntry& entry) const { return file.slice(data_begin + entry.begin, entry.end - entry.begin); }
};

inline constexpr std::uint64_t kSafetensorsHeaderLimit = 100'000'000;

// `name` is used in messages. Throws FormatError with the offset of what is wrong.
SafetensorsFile read_safetensors(Blob file, const std::string& name);
SafetensorsFile open_safetensors(const std::string& path);

// The header bytes (length prefix included, padded with spaces to a multiple of `alignment`) for tensors
// laid out in the given order without gaps. The format asks for elements at multiples of their size: give
// the widest types first. Throws Error for names given twice or not UTF-8, and when the header would pass
// the limit.
struct SafetensorsLayout {
  std::string name;
  DType dtype = DType::F32;
  Shape shape;
};
std::string safetensors_header(const std::vector<SafetensorsLayout>& tensors, const std::map<std::string, std::string>& metadata,
                               std::size_t alignment = 8);

}  // namespace miq
