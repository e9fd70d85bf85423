// Octets go group by group; warps of 32 octets cut them into runs. Where weights are pruned, the kept ones before each run are counted row by
// row, over the mask.
#include "miq/formats/packed_view.h"

#include <algorithm>
#include <cstring>

#include "miq/base/error.h"
#include "miq/formats/packed_layout.h"

namespace miq {
namespace {

std::vector<std::uint32_t> padded_words(Bytes bytes) {
  std::vector<std::uint32_t> words(bytes.size() / 4 + 4);
  if (!bytes.empty()) std::memcpy(words.data(), bytes.data(), bytes.size());
  return words;
}

void cut_octets(const PackedLayout& layout, PackedArrays& arrays) {
  for (std::size_t g = 0; g < layout.groups.size(); ++g) {
    const PackedLayout::Group& group = layout.groups[g];
    for (std::int64_t at = 0; at < group.columns; at += kOctet) {
      PackedOctet octet{};
      octet.column = static_cast<std::uint32_t>(group.first + at);
      octet.group = static_cast<std::uint16_t>(g);
      octet.count = static_cast<std::uint8_t>(std::min<std::int64_t>(kOctet, group.columns - at));
      const std::size_t lane = arrays.octets.size() % kWarpOctets;
      const bool begins = at == 0 || lane == 0;
      if (begins) ++arrays.runs;
      octet.run = static_cast<std::uint32_t>(arrays.runs - 1);
      octet.first_lane = begins ? static_cast<std::uint8_t>(lane) : arrays.octets.back().first_lane;
      arrays.octets.push_back(octet);
    }
  }
}

void count_kept(const PackedLayout& layout, PackedArrays& arrays, std::string_view name) {
  for (const PackedLayout::Group& group : layout.groups) {
    if (group.kept > UINT32_MAX) throw Error("tensor '" + std::string(name) + "': a group keeps more than 2^32 weights, which the kernels for GPUs do not count");
  }
  arrays.kept_before.resize(static_cast<std::size_t>(arrays.runs * layout.rows));
  for (std::size_t i = 0; i < arrays.octets.size(); ++i) {
    const PackedOctet& octet = arrays.octets[i];
    if (i > 0 && arrays.octets[i - 1].run == octet.run) continue;
    const PackedLayout::Group& group = layout.groups[octet.group];
    const std::uint64_t inside = octet.column - static_cast<std::uint64_t>(group.first);
    std::uint64_t kept = 0;
    for (std::int64_t row = 0; row < layout.rows; ++row) {
      const std::uint64_t begin = group.mask_at + static_cast<std::uint64_t>(row * group.columns);
      arrays.kept_before[static_cast<std::size_t>(octet.run * layout.rows + row)] =
          static_cast<std::uint32_t>(kept + count_bits(layout.mask, begin, begin + inside));
      kept += count_bits(layout.mask, begin, begin + static_cast<std::uint64_t>(group.columns));
    }
  }
}

}  // namespace

PackedArrays packed_arrays(const Tensor& tensor, std::string_view name) {
  const PackedLayout layout = parse_packed(tensor, name);
  PackedArrays arrays;
  arrays.rows = layout.rows;
  arrays.cols = layout.cols;
  arrays.codes = padded_words(layout.codes_blob.bytes());
  arrays.zeros = padded_words(layout.zeros_blob.bytes());
  if (layout.masked) arrays.mask = padded_words(layout.mask_blob.bytes());
  arrays.scales.resize(layout.groups.size() * static_cast<std::size_t>(layout.rows));
  for (std::size_t g = 0; g < layout.groups.size(); ++g) {
    const PackedLayout::Group& group = layout.groups[g];
    arrays.groups.push_back({group.codes_at * 8, group.zeros_at * 8, group.mask_at, static_cast<std::uint32_t>(group.first),
                             static_cast<std::uint32_t>(group.columns), static_cast<std::uint32_t>(group.bits)});
    for (std::int64_t row = 0; row < layout.rows; ++row) {
      arrays.scales[g * static_cast<std::size_t>(layout.rows) + static_cast<std::size_t>(row)] = layout.scale(static_cast<std::int64_t>(g), row);
    }
  }
  cut_octets(layout, arrays);
  if (layout.masked) count_kept(layout, arrays, name);
  if (!layout.in_order) {
    arrays.column_of_place.resize(static_cast<std::size_t>(layout.cols));
    for (std::size_t c = 0; c < arrays.column_of_place.size(); ++c) arrays.column_of_place[layout.position_of_column[c]] = static_cast<std::uint32_t>(c);
  }
  return arrays;
}

PackedView PackedArrays::view() const {
  const auto or_null = [](const auto& array) { return array.empty() ? nullptr : array.data(); };
  return {rows, cols, static_cast<std::int64_t>(octets.size()), runs, octets.data(), groups.data(), codes.data(), zeros.data(), or_null(mask),
          scales.data(), or_null(kept_before), or_null(column_of_place)};
}

std::uint64_t PackedArrays::bytes() const {
  const auto size = [](const auto& array) { return static_cast<std::uint64_t>(array.size() * sizeof(array[0])); };
  return size(octets) + size(groups) + size(codes) + size(zeros) + size(mask) + size(scales) + size(kept_before) + size(column_of_place);
}

}  // namespace miq
