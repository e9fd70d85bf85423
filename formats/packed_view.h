// A packed tensor laid out for GPUs (packed_octets.h).
#pragma once

#include <cstdint>
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
};

// Throws FormatError naming `name` as PackedDecoder does, and Error where a group keeps more than 2^32 weights.
PackedArrays packed_arrays(const Tensor& tensor, std::string_view name);

}  // namespace miq
