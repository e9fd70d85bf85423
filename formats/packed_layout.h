// Inside the room: where everything lies in the sections of a packed tensor (spec/miq.md, "packed").
//
// "Storage order" of a matrix: group after group; within a group row after row; within a row the
// group's columns, ascending. Codes and mask bits both follow it.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "miq/formats/packed_matrix.h"

namespace miq {

// A byte range that may be read up to 8 bytes at a time without leaving it.
struct BitSource {
  const std::uint8_t* data = nullptr;
  std::uint64_t size = 0;

  // The 8 bytes from byte `at`, little-endian; those beyond the end read as zero.
  std::uint64_t word(std::uint64_t at) const {
    std::uint64_t value = 0;
    if (at + 8 <= size) {
      __builtin_memcpy(&value, data + at, 8);
    } else if (at < size) {
      __builtin_memcpy(&value, data + at, size - at);
    }
    return value;
  }
  // At least 57 bits from bit `at` on.
  std::uint64_t bits(std::uint64_t at) const { return word(at >> 3) >> (at & 7); }
};

// Set bits among bits [begin, end).
std::uint64_t count_bits(const BitSource& source, std::uint64_t begin, std::uint64_t end);

// True where the processor has the bit deposit instruction.
bool has_bit_deposit();

struct PackedLayout {
  static constexpr std::int64_t kRowsPerMark = 64;

  struct Group {
    int bits = 0;
    std::int64_t first = 0, columns = 0;       // its place in the storage order of columns
    std::uint64_t codes_at = 0, zeros_at = 0;  // byte offsets of its streams
    std::uint64_t kept = 0;                    // weights with a code
    std::uint64_t mask_at = 0;                 // bit offset in the mask
  };

  std::int64_t rows = 0, cols = 0;
  DType scale_dtype = DType::F16;
  int scale_bits = 0;  // coded scales
  std::vector<Group> groups;
  std::vector<std::uint16_t> group_of_column;
  std::vector<std::uint32_t> position_of_column;  // place of each column in storage order
  bool in_order = true;                           // storage order of columns is their own order
  bool masked = false;
  bool bit_deposit = has_bit_deposit();    // false takes the portable path, for tests
  std::vector<std::uint64_t> kept_before;  // [group][row / kRowsPerMark], where masked
  Blob codes_blob, scales_blob, zeros_blob, mask_blob, exponents_blob;
  BitSource codes, zeros, mask, scales;

  std::uint8_t row_exponent(std::int64_t row) const { return exponents_blob.bytes()[static_cast<std::size_t>(row) + 1]; }

  float scale(std::int64_t group, std::int64_t row) const;
  int zero(const Group& group, std::int64_t row) const {
    return static_cast<int>(zeros.bits(group.zeros_at * 8 + static_cast<std::uint64_t>(row * group.bits)) & ((1u << group.bits) - 1));
  }
  // Weights of the group that have a code and lie above `row`.
  std::uint64_t kept_above(std::int64_t group, std::int64_t row) const;

  // Codes of rows [row, row + count) of a group, one byte each, and where masked 0xFF or 0 for kept or
  // pruned; `first_kept` is kept_above(group, row) and is moved to the row after. Both buffers must have
  // kSlack bytes more than count * columns; the first code lies at codes_out[returned value].
  static constexpr std::int64_t kSlack = 16;
  std::int64_t unpack(std::int64_t group, std::int64_t row, std::int64_t count, std::uint64_t& first_kept, std::uint8_t* codes_out,
                      std::uint8_t* mask_out) const;
};

// Throws FormatError naming `name` for anything that contradicts the spec. `check_scales` false leaves
// the scales unread.
PackedLayout parse_packed(const Tensor& tensor, std::string_view name, bool check_scales = true);

// Columns' places in storage order; fills first, columns of each group, position_of_column, in_order.
void order_columns(PackedLayout& layout);

}  // namespace miq
