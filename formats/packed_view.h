// A packed tensor laid out for GPUs (packed_octets.h).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "miq/formats/packed_octets.h"
#include "miq/formats/tensor.h"

namespace miq {

// What a PackedView points to, in the host's memory; copied to a device array by array.
struct PackedArrays {
  std::int64_t rows = 0, cols = 0, runs = 0;
  std::vector<PackedOctet> octets;
  std::vector<PackedGroupView> groups;
  std::vector<std::uint32_t> codes, zeros, mask;  // padded; mask empty where nothing is pruned
  std::vector<float> scales;
  std::vector<std::uint32_t> kept_before, column_of_place;  // empty where there is no need

  PackedView view() const;      // of these arrays; valid while they are
  std::uint64_t bytes() const;  // of all arrays: what a product reads

  // All of them as one piece of memory, to be copied at once: its size, and the arrays written to `to` (exactly so many bytes) with a view as that of a
  // copy which begins at `at`, an address of 16-byte alignment that nothing here reads.
  std::uint64_t image_bytes() const;
  PackedView write_image(std::span<std::uint8_t> to, const void* at) const;
};

// What the numbers of a packed tensor are rounded to when they are decoded. REQUIRES a dtype that packed tensors have.
PackedRounding packed_rounding(DType dtype);

// At least image_bytes() of the tensor's arrays, from the sizes of its sections alone, which need not fit together.
std::uint64_t most_image_bytes(const Tensor& tensor);

// Throws FormatError naming `name` as PackedDecoder does, and Error where a group keeps more than 2^32 weights.
PackedArrays packed_arrays(const Tensor& tensor, std::string_view name);

}  // namespace miq
