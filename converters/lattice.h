// Finds the integer codes behind a matrix of floats that other tools saved after quantizing it: "fake
// quantization". What is found decodes to the very same bits, or it is not used: nothing is approximated.
//
//   w = round_to_dtype(round_to_float32(scale * (code - zero)))       as packed_matrix.h has it
//
// Found: one lattice for each row; one for each row and run of 16, 32, … 1024 input channels; and groups of input
// channels that lie anywhere, with widths and scales of their own: either the widths of a row divide one range
// (scale_b = range / (2^b - 1), SparseGPT's min-max rule), or the groups' scales are unrelated. Widths 2, 3,
// 4, 6 and 8; a lattice of 5 or 7 bits is stored with 6 or 8. Pruned zeros and zeros on the lattice cannot be
// told apart, so a mask is used exactly where it makes the result smaller.
//
// Not found: lattices with an offset that is no multiple of the scale (GGUF's Q4_1: d * q + m), which the formula
// above cannot state; groups with unrelated scales after a cast to F16 where one has more than 4 bits, or to BF16.
//
// What cannot be known: which float32 scale the other tool had. Any scale of an interval may give the same
// elements, above all after a cast to F16 or BF16; `proven_scales` counts the intervals of one number.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "miq/base/thread_pool.h"
#include "miq/formats/packed_matrix.h"

namespace miq {

struct Lattice {
  std::optional<Tensor> packed;  // decodes to the source's bytes; verified
  std::string reason;            // where there is none: why, naming the first row that contradicts

  std::string kind;             // "row", "groups", "mixed"
  std::int64_t group_size = 0;  // "groups" only
  std::vector<std::uint8_t> bits_of_group;
  std::vector<std::int64_t> columns_of_group;
  bool masked = false;
  std::uint64_t zeros = 0;  // elements that are +0.0 or -0.0
  DType scale_dtype = DType::F32;
  std::uint64_t scales = 0;         // (row, group) pairs that hold an element other than zero
  std::uint64_t proven_scales = 0;  // of these, those for which exactly one float32 gives the elements
};

// `tensor` is [out, in], F32, F16 or BF16, in any encoding; `name` is for messages. Anything else, NaN and
// infinity give a reason, not an exception. Costs about one pass where there is no lattice. Deterministic.
Lattice find_lattice(const Tensor& tensor, std::string_view name, ThreadPool& pool);

}  // namespace miq
