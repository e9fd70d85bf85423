// Octets go group by group; warps of 32 octets cut them into runs. Where weights are pruned, the kept ones before each run are counted row by
// row, over the mask.
#include "miq/formats/packed_view.h"

#include <algorithm>
#include <cstring>

#include "miq/base/error.h"
#include "miq/formats/packed_layout.h"

namespace miq {
namespace {

constexpr std::uint64_t kImageAlignment = 16, kStreamPadding = 16;

std::uint64_t aligned(std::uint64_t bytes) { return (bytes + kImageAlignment - 1) / kImageAlignment * kImageAlignment; }

std::vector<std::uint32_t> padded_words(Bytes bytes) {
  std::vector<std::uint32_t> words((bytes.size() / 4 * 4 + kStreamPadding) / 4);
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

std::uint64_t PackedArrays::image_bytes() const {
  const auto size = [](const auto& array) { return aligned(array.size() * sizeof(array[0])); };
  return size(octets) + size(groups) + size(codes) + size(zeros) + size(mask) + size(scales) + size(kept_before) + size(column_of_place);
}

PackedView PackedArrays::write_image(std::span<std::uint8_t> to, const void* at) const {
  if (to.size() != image_bytes()) throw Error("the memory for a packed matrix has the wrong size");
  std::uint64_t begin = 0;
  const auto put = [&]<class Value>(const std::vector<Value>& array) -> const Value* {
    if (array.empty()) return nullptr;
    std::memcpy(to.data() + begin, array.data(), array.size() * sizeof(Value));
    const void* place = static_cast<const std::uint8_t*>(at) + begin;
    begin += aligned(array.size() * sizeof(Value));
    return static_cast<const Value*>(place);
  };
  PackedView placed = view();
  placed.octet = put(octets);
  placed.group = put(groups);
  placed.codes = put(codes);
  placed.zeros = put(zeros);
  placed.mask = put(mask);
  placed.scales = put(scales);
  placed.kept_before = put(kept_before);
  placed.column_of_place = put(column_of_place);
  return placed;
}

PackedRounding packed_rounding(DType dtype) {
  return dtype == DType::F16 ? kFloat16Numbers : dtype == DType::BF16 ? kBfloat16Numbers : kFloat32Numbers;
}

std::uint64_t most_image_bytes(const Tensor& tensor) {
  const auto section = [&](const char* name) {
    const auto found = tensor.sections.find(name);
    return found == tensor.sections.end() ? std::uint64_t{0} : static_cast<std::uint64_t>(found->second.size());
  };
  const std::uint64_t groups = section("bits");
  const std::uint64_t rows = tensor.shape.empty() ? 0 : static_cast<std::uint64_t>(tensor.shape.front());
  const std::uint64_t cols = tensor.shape.empty() ? 0 : static_cast<std::uint64_t>(tensor.shape.back());
  // A group's last octet may be short; its octets are at most in one run more than they fill warps.
  const std::uint64_t octets = cols / kOctet + groups, runs = octets / kWarpOctets + groups + 1;
  const bool masked = tensor.sections.contains("mask");
  const std::uint64_t arrays = octets * sizeof(PackedOctet) + groups * sizeof(PackedGroupView) + section("codes") + section("zeros") + section("mask") +
                               groups * rows * sizeof(float) + (masked ? runs * rows * sizeof(std::uint32_t) : 0) + cols * sizeof(std::uint32_t);
  return arrays + 3 * kStreamPadding + 8 * kImageAlignment;
}

}  // namespace miq
