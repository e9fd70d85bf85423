// Proves that a packed tensor's sections fit together, and says where each group's bits lie. Counts
// are derived from the sections (groups from the length of "bits", the scales' type from theirs), so
// nothing is believed that the bytes do not bear out.
#include "miq/formats/packed_layout.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "miq/base/checked.h"
#include "miq/formats/encodings.h"
#include "miq/formats/scale_code.h"

namespace miq {
namespace {

using encodings::require_size;
using encodings::section;
using encodings::subject;

bool is_width(int bits) { return bits == 2 || bits == 3 || bits == 4 || bits == 6 || bits == 8; }

std::uint64_t bytes_for(std::uint64_t bits) { return bits / 8 + (bits % 8 != 0); }

// rows * cols has been checked against overflow, and each part of it times 8 bits fits as well.
std::uint64_t product(std::int64_t a, std::int64_t b) { return static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b); }

BitSource source_of(const Blob& blob) { return {blob.bytes().data(), blob.size()}; }

[[noreturn]] void refuse(std::string_view name, const std::string& problem) {
  throw FormatError(subject(name), problem, "The file is damaged or was written wrongly; make it again from its source");
}

void read_shape(PackedLayout& layout, const Tensor& tensor, std::string_view name) {
  if (tensor.shape.size() != 2 || tensor.shape[0] < 1 || tensor.shape[1] < 1)
    refuse(name, "a packed tensor must be a matrix with rows and columns");
  if (tensor.dtype != DType::F32 && tensor.dtype != DType::F16 && tensor.dtype != DType::BF16) {
    refuse(name, "a packed tensor decodes to F32, F16 or BF16, not to " + std::string(dtype_name(tensor.dtype)));
  }
  layout.rows = tensor.shape[0];
  layout.cols = tensor.shape[1];
  const auto weights = checked_mul(layout.rows, layout.cols);
  if (!weights || *weights > INT64_MAX / 64 || layout.cols > INT32_MAX) refuse(name, "its shape is too large");
  // Every weight has a mask bit or at least two bits of code: nothing is allocated for a shape beyond that.
  const auto mask = tensor.sections.find("mask");
  const std::uint64_t stored = section(tensor, name, "codes").size() + (mask == tensor.sections.end() ? 0 : mask->second.size());
  if (static_cast<std::uint64_t>(*weights) / 8 > stored) {
    refuse(name,
           "its sections 'codes' and 'mask' of " + std::to_string(stored) + " bytes cannot hold " + std::to_string(*weights) + " weights");
  }
}

void read_groups(PackedLayout& layout, const Tensor& tensor, std::string_view name) {
  const Bytes widths = section(tensor, name, "bits");
  if (widths.empty() || widths.size() > 65536 || widths.size() > static_cast<std::uint64_t>(layout.cols)) {
    refuse(name, "it has " + std::to_string(widths.size()) + " groups for " + std::to_string(layout.cols) + " columns");
  }
  for (std::uint8_t bits : widths) {
    if (!is_width(bits))
      refuse(name,
             "group " + std::to_string(layout.groups.size()) + " has codes of " + std::to_string(bits) + " bits (known: 2, 3, 4, 6, 8)");
    layout.groups.emplace_back().bits = bits;
  }
  const auto groups = static_cast<std::int64_t>(layout.groups.size());
  const bool has_indices = tensor.sections.count("groups") != 0;
  if (has_indices != (groups > 1)) refuse(name, "section 'groups' must be present exactly when there is more than one group");
  const int width = group_index_bits(groups);
  const std::uint64_t index_bits = product(layout.cols, width);
  BitSource indices;
  if (has_indices) {
    const Bytes bytes = section(tensor, name, "groups");
    require_size(name, "groups", bytes.size(), bytes_for(index_bits));
    indices = {bytes.data(), bytes.size()};
    if (index_bits % 8 != 0 && (bytes.back() >> (index_bits % 8)) != 0) refuse(name, "section 'groups' has bits beyond its end");
  }
  layout.group_of_column.resize(static_cast<std::size_t>(layout.cols));
  for (std::int64_t column = 0; has_indices && column < layout.cols; ++column) {
    const std::uint64_t index = indices.bits(product(column, width)) & ((std::uint64_t{1} << width) - 1);
    if (index >= static_cast<std::uint64_t>(groups)) {
      refuse(name, "column " + std::to_string(column) + " is in group " + std::to_string(index) + " of " + std::to_string(groups));
    }
    layout.group_of_column[static_cast<std::size_t>(column)] = static_cast<std::uint16_t>(index);
  }
  order_columns(layout);
}

void read_mask(PackedLayout& layout, const Tensor& tensor, std::string_view name) {
  const auto found = tensor.sections.find("mask");
  layout.masked = found != tensor.sections.end();
  if (layout.masked) {
    const std::uint64_t weights = product(layout.rows, layout.cols);
    require_size(name, "mask", found->second.size(), bytes_for(weights));
    layout.mask_blob = found->second;
    layout.mask = source_of(layout.mask_blob);
    if (weights % 8 != 0 && (layout.mask_blob.bytes().back() >> (weights % 8)) != 0)
      refuse(name, "section 'mask' has bits beyond the last weight");
  }
  for (auto& group : layout.groups) {
    group.mask_at = product(layout.rows, group.first);
    if (!layout.masked) {
      group.kept = product(layout.rows, group.columns);
      continue;
    }
    for (std::int64_t row = 0; row < layout.rows; row += PackedLayout::kRowsPerMark) {
      layout.kept_before.push_back(group.kept);
      const std::int64_t end = std::min(layout.rows, row + PackedLayout::kRowsPerMark);
      group.kept += count_bits(layout.mask, group.mask_at + product(row, group.columns), group.mask_at + product(end, group.columns));
    }
  }
}

// Both kinds of stream: each group's begins at a byte; the bits that fill its last byte are zero.
void read_streams(PackedLayout& layout, const Tensor& tensor, std::string_view name) {
  std::uint64_t codes = 0, zeros = 0;
  for (auto& group : layout.groups) {
    group.codes_at = codes;
    group.zeros_at = zeros;
    codes += bytes_for(group.kept * static_cast<std::uint64_t>(group.bits));
    zeros += bytes_for(product(layout.rows, group.bits));
  }
  const Bytes code_bytes = section(tensor, name, "codes"), zero_bytes = section(tensor, name, "zeros");
  require_size(name, "codes", code_bytes.size(), codes);
  require_size(name, "zeros", zero_bytes.size(), zeros);
  for (std::size_t i = 0; i < layout.groups.size(); ++i) {
    const auto& group = layout.groups[i];
    const auto bits = static_cast<std::uint64_t>(group.bits);
    const auto fill_is_zero = [](Bytes bytes, std::uint64_t at, std::uint64_t stream) {
      return stream % 8 == 0 || (bytes[at + stream / 8] >> (stream % 8)) == 0;
    };
    if (!fill_is_zero(code_bytes, group.codes_at, group.kept * bits))
      refuse(name, "the codes of group " + std::to_string(i) + " have bits beyond their end");
    if (!fill_is_zero(zero_bytes, group.zeros_at, product(layout.rows, group.bits))) {
      refuse(name, "the zero points of group " + std::to_string(i) + " have bits beyond their end");
    }
  }
  layout.codes_blob = tensor.sections.at("codes");
  layout.zeros_blob = tensor.sections.at("zeros");
  layout.codes = source_of(layout.codes_blob);
  layout.zeros = source_of(layout.zeros_blob);
}

// Every code is a scale: what can be wrong are lengths, the width and the exponents.
void read_coded_scales(PackedLayout& layout, const Tensor& tensor, std::string_view name) {
  layout.exponents_blob = tensor.sections.at("exponents");
  const Bytes exponents = layout.exponents_blob.bytes();
  require_size(name, "exponents", exponents.size(), static_cast<std::uint64_t>(layout.rows) + 1);
  layout.scale_dtype = DType::F32;
  layout.scale_bits = exponents[0];
  if (layout.scale_bits < kLeastScaleBits || layout.scale_bits > kMostScaleBits) {
    refuse(name, "its scales are codes of " + std::to_string(layout.scale_bits) + " bits (known: 4 to 8)");
  }
  for (std::int64_t row = 0; row < layout.rows; ++row) {
    if (layout.row_exponent(row) < kLeastRowExponent || layout.row_exponent(row) > kMostRowExponent) {
      refuse(name, "the exponent of row " + std::to_string(row) + " is " + std::to_string(layout.row_exponent(row)) + ", not 16 to 254");
    }
  }
  const std::uint64_t scales = product(static_cast<std::int64_t>(layout.groups.size()), layout.rows);
  const std::uint64_t stream = scales * static_cast<std::uint64_t>(layout.scale_bits);
  require_size(name, "scales", layout.scales_blob.size(), bytes_for(stream));
  if (stream % 8 != 0 && (layout.scales_blob.bytes().back() >> (stream % 8)) != 0)
    refuse(name, "section 'scales' has bits beyond its end");
  layout.scales = source_of(layout.scales_blob);
}

void read_scales(PackedLayout& layout, const Tensor& tensor, std::string_view name, bool check) {
  const auto groups = static_cast<std::int64_t>(layout.groups.size());
  const std::uint64_t scales = product(groups, layout.rows);  // <= rows * cols
  layout.scales_blob = tensor.sections.at("scales");
  if (tensor.sections.count("exponents") != 0) return read_coded_scales(layout, tensor, name);
  layout.scale_dtype = layout.scales_blob.size() == scales * 4 ? DType::F32 : DType::F16;
  require_size(name, "scales", layout.scales_blob.size(), scales * dtype_bytes(layout.scale_dtype));
  for (std::int64_t group = 0; check && group < groups; ++group) {
    for (std::int64_t row = 0; row < layout.rows; ++row) {
      if (!std::isfinite(layout.scale(group, row))) {
        refuse(name, "the scale of group " + std::to_string(group) + ", row " + std::to_string(row) + " is not a finite number");
      }
    }
  }
}

}  // namespace

std::uint64_t count_bits(const BitSource& source, std::uint64_t begin, std::uint64_t end) {
  std::uint64_t count = 0;
  for (; begin < end && begin % 8 != 0; ++begin) count += (source.data[begin / 8] >> (begin % 8)) & 1;
  for (; begin + 64 <= end; begin += 64) count += static_cast<std::uint64_t>(std::popcount(source.word(begin / 8)));
  if (begin < end) count += static_cast<std::uint64_t>(std::popcount(source.word(begin / 8) & ((std::uint64_t{1} << (end - begin)) - 1)));
  return count;
}

int group_index_bits(std::int64_t groups) { return groups <= 1 ? 0 : std::bit_width(static_cast<std::uint64_t>(groups - 1)); }

void order_columns(PackedLayout& layout) {
  for (auto& group : layout.groups) group.columns = 0;
  for (std::uint16_t index : layout.group_of_column) ++layout.groups[index].columns;
  std::vector<std::uint32_t> next(layout.groups.size());
  std::uint32_t first = 0;
  for (std::size_t i = 0; i < next.size(); ++i) {
    layout.groups[i].first = first;
    next[i] = first;
    first += static_cast<std::uint32_t>(layout.groups[i].columns);
  }
  layout.position_of_column.resize(layout.group_of_column.size());
  layout.in_order = true;
  for (std::size_t column = 0; column < layout.group_of_column.size(); ++column) {
    layout.position_of_column[column] = next[layout.group_of_column[column]]++;
    layout.in_order &= layout.position_of_column[column] == column;
  }
}

float PackedLayout::scale(std::int64_t group, std::int64_t row) const {
  const std::size_t at = static_cast<std::size_t>(group * rows + row);
  if (scale_bits > 0) {
    const std::uint64_t code = scales.bits(at * static_cast<std::size_t>(scale_bits)) & ((1u << scale_bits) - 1);
    const int largest = (1 << groups[static_cast<std::size_t>(group)].bits) - 1;
    return coded_range(static_cast<std::uint32_t>(code), scale_bits, row_exponent(row)) / static_cast<float>(largest);
  }
  if (scale_dtype == DType::F32) {
    float value;
    std::memcpy(&value, scales_blob.bytes().data() + at * 4, 4);
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, scales_blob.bytes().data() + at * 2, 2);
  return f16_to_f32(bits);
}

std::uint64_t PackedLayout::kept_above(std::int64_t group, std::int64_t row) const {
  const Group& g = groups[static_cast<std::size_t>(group)];
  if (!masked) return product(row, g.columns);
  if (row >= rows) return g.kept;
  const std::int64_t marks = (rows + kRowsPerMark - 1) / kRowsPerMark, mark = row / kRowsPerMark;
  return kept_before[static_cast<std::size_t>(group * marks + mark)] +
         count_bits(mask, g.mask_at + product(mark * kRowsPerMark, g.columns), g.mask_at + product(row, g.columns));
}

PackedLayout parse_packed(const Tensor& tensor, std::string_view name, bool check_scales) {
  if (tensor.encoding != Encoding::Packed) throw Error("tensor " + std::string(name) + " is not packed");
  encodings::require_sections(tensor, name, {"codes", "scales", "zeros", "bits"}, {"groups", "mask", "exponents"});
  PackedLayout layout;
  read_shape(layout, tensor, name);
  read_groups(layout, tensor, name);
  read_scales(layout, tensor, name, check_scales);  // bounds groups * rows by the file's bytes
  read_mask(layout, tensor, name);
  read_streams(layout, tensor, name);
  return layout;
}

}  // namespace miq
