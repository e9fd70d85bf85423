// One stored tensor in whichever encoding it has: what containers hold and models are made of.
//
// An encoding is a way to keep a tensor's elements in one or more named byte sections. Decoding gives
// exactly the elements of `dtype` and `shape`, bit by bit, whatever the encoding.
//
//   dense    section "data": the elements, row-major, little-endian
//   zstd     section "data": the elements' bytes shuffled into planes, then one zstd frame
//   bitmask  sections "mask" (one bit an element) and "values" (the non-zero elements, in order)
//   packed   a matrix as integer codes in groups of input channels; see packed_matrix.h
//   ggml     one section, named by the type of its blocks ("Q4_1"): those of a GGUF file as they were (gguf_blocks.h); decodes to F32
//
// The exact layouts stand in spec/miq.md.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "miq/base/blob.h"
#include "miq/base/thread_pool.h"
#include "miq/formats/dtype.h"

namespace miq {

enum class Encoding : std::uint8_t { Dense, Zstd, Bitmask, Packed, Ggml };

std::string_view encoding_name(Encoding encoding);                          // "dense", "zstd", …
std::optional<Encoding> encoding_from_name(std::string_view name);

struct Tensor {
  Encoding encoding = Encoding::Dense;
  DType dtype = DType::F32;  // of the decoded elements
  Shape shape;
  std::map<std::string, Blob> sections;

  std::int64_t elements() const;       // REQUIRES a shape that passed tensor_bytes()
  std::uint64_t stored_bytes() const;  // sum of the sections
};

Tensor dense_tensor(DType dtype, Shape shape, Blob data);

// Decodes into `out`, which must be exactly tensor_bytes(dtype, shape) long.
// Throws FormatError (naming `name`) when the sections contradict the dtype, shape or themselves;
// never reads outside them and never allocates more than the decoded tensor's size plus 16 MiB.
// With a pool, a packed matrix is decoded by all its threads; the bytes are the same.
void decode(const Tensor& tensor, std::string_view name, std::span<std::uint8_t> out, ThreadPool* pool = nullptr);
// The elements' bytes without a copy where the encoding is dense, else decoded into a new buffer.
Blob decode(const Tensor& tensor, std::string_view name, ThreadPool* pool = nullptr);

// Everything decode() would refuse that can be seen without decoding: sizes, counts, indices, scales
// that are not finite, a zstd frame's header. Throws FormatError naming `name`.
void check_tensor(const Tensor& tensor, std::string_view name);

// Exact encoders. Each returns the encoded tensor; `encode_best` returns whichever of dense, bitmask
// and (where `allow_zstd`) zstd is smallest, preferring dense where the others save under 5 %.
Tensor encode_bitmask(const Tensor& dense);
Tensor encode_zstd(const Tensor& dense, int level = 3);
Tensor encode_best(const Tensor& dense, bool allow_zstd);

// Bits of one weight's code, scales apart. REQUIRES encoding ggml and that check_tensor() passed.
unsigned ggml_code_bits(const Tensor& tensor);

// Number of elements that are exactly zero (-0.0 counts: it multiplies as zero does).
std::int64_t count_zeros(const Tensor& tensor, std::string_view name);

}  // namespace miq
