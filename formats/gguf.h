// GGUF versions 2 and 3 (little-endian): metadata and tensors of llama.cpp's model files.
// Facts: ggml docs/gguf.md; block layouts in gguf_blocks.h.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "miq/base/blob.h"
#include "miq/formats/dtype.h"
#include "miq/formats/tensor.h"

namespace miq {

// A metadata value. Integers of every width become the 64-bit alternative of their sign; arrays hold
// one kind each (array of arrays is refused). Texts are bytes as stored: UTF-8 is not checked here.
using GgufValue = std::variant<bool, std::int64_t, std::uint64_t, double, std::string, std::vector<bool>, std::vector<std::int64_t>,
                               std::vector<std::uint64_t>, std::vector<double>, std::vector<std::string>>;

struct GgufTensor {
  std::uint32_t type = 0;  // ggml type id; see gguf_blocks.h
  Shape shape;             // row-major: GGUF's dimensions reversed; [out, in] for weights
  Blob data;               // exactly the tensor's bytes; empty where the type's size is unknown
};

struct GgufFile {
  std::uint32_t version = 3;
  std::map<std::string, GgufValue> metadata;
  std::map<std::string, GgufTensor> tensors;
};

// Throws FormatError with the offset. Counts, lengths and offsets are checked against the bytes left
// before anything is allocated for them; names must be unique; tensors must be aligned, lie inside the
// file and not overlap, but may come in any order and leave gaps. Types that cannot be decoded are
// listed. Refused by name: version 1, versions after 3, big-endian files. `name` is used in messages.
GgufFile read_gguf(Blob file, const std::string& name);
GgufFile open_gguf(const std::string& path);

// Name of a ggml type ("Q4_1"), or "type 99".
std::string ggml_type_name(std::uint32_t type);
// True for F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K.
bool ggml_type_decodable(std::uint32_t type);
// Elements and bytes of one block; {0, 0} for unknown types.
std::pair<std::uint32_t, std::uint32_t> ggml_block(std::uint32_t type);

// Decodes to float32, bit-equal to gguf-py's dequantize. Throws FormatError naming `name` for types
// that are not decodable, for block scales that are not finite, and for data that does not fit the
// shape. (F32, F16 and BF16 have no scales: their NaN and infinities come through.)
std::vector<float> dequantize_gguf(const GgufTensor& tensor, const std::string& name);
// The same tensor as it is stored, its bytes shared: F32, F16 and BF16 dense, blocks in encoding ggml (decoding to F32). Throws as dequantize_gguf().
Tensor gguf_stored(const GgufTensor& tensor, const std::string& name);

}  // namespace miq
