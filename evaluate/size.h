// What a model takes: bytes on disk, bytes of its weights as stored, bits per weight.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "miq/base/thread_pool.h"
#include "miq/model/model.h"

namespace miq {

// Bits of one decoder linear as stored. Packed: codes, scales, zero points, masks, group indices
// (packed_bits). Bitmask: values and mask. Dense and zstd: the element type's bits; zstd's effective bits
// are its compressed size.
struct MatrixBits {
  std::int64_t layer = 0;
  std::string name;      // "q_proj"
  std::string encoding;  // "packed"; of blocks of ggml their type, "Q4_1"
  std::uint64_t weights = 0, kept = 0;  // kept: weights that take a code or value
  std::uint64_t code_bits = 0;          // of the kept weights' codes or values
  std::uint64_t stored_bits = 0;        // everything
  std::map<int, std::uint64_t> columns_by_bits;  // packed only: how many columns have each width
};

struct SizeFigures {
  std::uint64_t file_bytes = 0;     // the file; for a folder its weight files
  std::uint64_t weight_bytes = 0;   // all tensors as stored (GGUF: as decoded in memory)
  std::vector<MatrixBits> matrices; // every decoder linear, in forward order
  double code_bits = 0;             // per kept weight, over the decoder linears
  double effective_bits = 0;        // per weight, over the decoder linears: everything they store
  double model_bits = 0;            // per parameter, over the whole model
  std::map<std::string, std::uint64_t> bytes_by_encoding;  // all tensors
};

// `path` is what the model was opened from. Throws Error when it cannot be read any more.
SizeFigures measure_size(const Model& model, const std::string& path, ThreadPool& pool);

// Bytes of a file, or of a folder's weight files (.safetensors, .bin, .pt, .pth, .gguf, .miq).
std::uint64_t checkpoint_bytes(const std::string& path);

}  // namespace miq
