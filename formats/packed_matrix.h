// A quantized weight matrix [rows = out, cols = in]: integer codes, with a scale and a zero point for
// each (group of input channels, row), a number of bits for each group, and optionally a mask of
// the weights that were kept (the others are exactly zero and take no code).
//
//   w[r, c] = scale[g, r] * (code[r, c] - zero[g, r])      g = group_of_column[c], in float32,
//   w[r, c] = 0 where the mask has no bit                    one rounding, then to the decoded dtype
//
// This is the one quantized form of the suite: per-row uniform quantization is one group of all
// columns; GPTQ's groups are runs of columns; mixed precision gives groups different bits; the
// `enhanced` method's levels are up to five groups whose columns lie anywhere.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "miq/formats/tensor.h"

namespace miq {

// The working form: one byte a code. Sizes: codes and kept rows*cols (row-major, original column
// order; kept empty when nothing was pruned), scales and zeros groups*rows (group-major).
struct PackedMatrix {
  std::int64_t rows = 0, cols = 0;
  std::vector<std::uint16_t> group_of_column;  // [cols], values < groups
  std::vector<std::uint8_t> bits_of_group;     // [groups], each 2, 3, 4, 6 or 8
  DType scale_dtype = DType::F16;              // F16 or F32; every scale is exactly representable in it. F32 where coded
  int scale_bits = 0;                          // 4 to 8: scales are stored as codes of so many bits (scale_code.h); 0: as they are
  std::vector<std::uint8_t> row_exponents;     // [rows], where coded
  std::vector<float> scales;                   // finite; the decoded values, also where they are stored as codes
  std::vector<std::uint8_t> zeros;             // <= 2^bits - 1
  std::vector<std::uint8_t> codes;             // <= 2^bits - 1; ignored where not kept
  std::vector<std::uint8_t> kept;              // 1 kept, 0 pruned; or empty

  std::int64_t groups() const { return static_cast<std::int64_t>(bits_of_group.size()); }
};

// The storable scale > 0 nearest to `wanted` (finite, > 0) for a group and row: an F16 number (normal ones only), any
// float32, or one of the row's codes, as the matrix stores its scales.
float nearest_scale(const PackedMatrix& matrix, std::int64_t group, std::int64_t row, float wanted);

// How many bits a packed matrix takes, part by part, as stored (section padding not counted).
struct PackedBits {
  std::uint64_t weights = 0;      // rows*cols
  std::uint64_t kept = 0;         // weights with a code
  std::uint64_t codes = 0;        // bits of all codes of kept weights
  std::uint64_t scales = 0, zeros = 0, mask = 0, groups = 0;  // scales: with exponents; groups: column indices and level list
  std::uint64_t alignment = 0;    // lost where a bit stream ends within a byte
  // Exactly eight times the sections' bytes.
  std::uint64_t total() const { return codes + scales + zeros + mask + groups + alignment; }
};

// Sections "codes", "scales", "zeros", "bits", and where needed "groups" (absent for one group), "mask" and
// "exponents" (coded scales); decoded dtype F32, F16 or BF16. Throws Error when the matrix breaks a rule stated above.
Tensor pack(const PackedMatrix& matrix, DType decoded = DType::F32);
// Gives a packed tensor other scales. `matrix` is the tensor's own but for them; its codes, zero points and mask are not read and may be
// empty. Throws Error as pack() does.
void replace_scales(Tensor& tensor, const PackedMatrix& matrix);
// The exact inverse of pack(). Throws FormatError naming `name` on sections that contradict each other.
PackedMatrix unpack(const Tensor& tensor, std::string_view name);
// Reads only the sections' sizes, the level list, the groups and the mask.
PackedBits packed_bits(const Tensor& tensor, std::string_view name);

// Bits of one group index: ceil(log2(groups)).
int group_index_bits(std::int64_t groups);

struct PackedLayout;

// Decodes a packed tensor again and again, or in parts: everything is checked once, in the constructor
// (FormatError naming `name`). Keeps the sections alive. Thread-safe once built.
class PackedDecoder {
 public:
  PackedDecoder(const Tensor& tensor, std::string_view name);
  ~PackedDecoder();
  PackedDecoder(PackedDecoder&&) noexcept;
  PackedDecoder& operator=(PackedDecoder&&) noexcept;

  std::int64_t rows() const;
  std::int64_t cols() const;
  // Rows [begin, end) as `dtype` (F32, F16 or BF16): the float32 product, rounded once. `out` holds
  // exactly (end - begin) * cols elements; throws Error when it does not or the range is not in the matrix.
  void decode_rows(std::int64_t begin, std::int64_t end, DType dtype, std::span<std::uint8_t> out) const;
  // All rows, on all threads of `pool` where there is one.
  void decode(DType dtype, std::span<std::uint8_t> out, ThreadPool* pool = nullptr) const;

 private:
  std::unique_ptr<const PackedLayout> layout_;
};

}  // namespace miq
