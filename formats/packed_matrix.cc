// The working form (one byte a code) to the stored form and back, and the count of its bits. The
// layout is that of spec/miq.md: codes, zero points and mask bits in storage order, lowest bit first.
#include "miq/formats/packed_matrix.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "miq/base/checked.h"
#include "miq/formats/encodings.h"
#include "miq/formats/packed_layout.h"
#include "miq/formats/scale_code.h"

namespace miq {
namespace {

class BitWriter {
 public:
  void put(std::uint32_t value, int bits) {  // bits <= 16
    word_ |= static_cast<std::uint64_t>(value) << used_;
    used_ += bits;
    if (used_ >= 48) store(6);
  }
  void align() {
    if (used_ % 8 > 0) used_ += 8 - used_ % 8;
    store(used_ / 8);
  }
  Blob take() {
    align();
    bytes_.resize(size_);
    return Blob(std::move(bytes_));
  }

 private:
  void store(int bytes) {
    if (size_ + 8 > bytes_.size()) bytes_.resize(std::max<std::size_t>(64, bytes_.size() * 2));
    for (int i = 0; i < 8; ++i) bytes_[size_ + static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(word_ >> (8 * i));
    size_ += static_cast<std::size_t>(bytes);
    word_ >>= 8 * bytes;
    used_ -= 8 * bytes;
  }

  std::vector<std::uint8_t> bytes_;
  std::size_t size_ = 0;
  std::uint64_t word_ = 0;
  int used_ = 0;
};

void require(bool condition, const char* what) {
  if (!condition) throw Error(std::string("a packed matrix cannot be stored: ") + what);
}

float largest_code(const PackedMatrix& matrix, std::int64_t group) {
  return static_cast<float>((1 << matrix.bits_of_group[static_cast<std::size_t>(group)]) - 1);
}

void check_scales(const PackedMatrix& matrix) {
  require(matrix.scale_dtype == DType::F16 || matrix.scale_dtype == DType::F32, "scales must be F16 or F32");
  const auto rows = static_cast<std::size_t>(matrix.rows);
  if (matrix.scale_bits == 0) {
    require(matrix.row_exponents.empty(), "it has row exponents, but its scales are not coded");
  } else {
    require(matrix.scale_bits >= kLeastScaleBits && matrix.scale_bits <= kMostScaleBits, "coded scales must have 4 to 8 bits");
    require(matrix.scale_dtype == DType::F32, "coded scales must be F32 in the working form");
    require(matrix.row_exponents.size() == rows, "coded scales need one exponent for each row");
    for (std::uint8_t exponent : matrix.row_exponents)
      require(exponent >= kLeastRowExponent && exponent <= kMostRowExponent, "a row's exponent is not between 16 and 254");
  }
  for (std::size_t i = 0; i < matrix.scales.size(); ++i) {
    const float scale = matrix.scales[i];
    require(std::isfinite(scale), "a scale is not a finite number");
    if (matrix.scale_bits > 0) {
      const auto group = static_cast<std::int64_t>(i / rows), row = static_cast<std::int64_t>(i % rows);
      require(scale > 0 && nearest_scale(matrix, group, row, scale) == scale, "a scale is none of its row's codes");
    } else if (matrix.scale_dtype == DType::F16) {
      const float stored = f16_to_f32(f32_to_f16(scale));
      require(std::bit_cast<std::uint32_t>(stored) == std::bit_cast<std::uint32_t>(scale), "a scale is not exactly an F16 number");
    }
  }
}

void check(const PackedMatrix& matrix, DType decoded) {
  require(decoded == DType::F32 || decoded == DType::F16 || decoded == DType::BF16, "it must decode to F32, F16 or BF16");
  require(matrix.rows > 0 && matrix.cols > 0, "it has no rows or no columns");
  const auto weights = checked_mul(matrix.rows, matrix.cols);
  require(weights.has_value(), "it is too large");
  const auto elements = static_cast<std::size_t>(*weights);
  const std::int64_t groups = matrix.groups();
  require(groups >= 1 && groups <= 65536 && groups <= matrix.cols,
          "it must have at least one group and at most one for each column (65536)");
  require(matrix.group_of_column.size() == static_cast<std::size_t>(matrix.cols), "group_of_column must name a group for each column");
  for (std::uint16_t group : matrix.group_of_column) require(group < groups, "a column's group is out of range");
  for (std::uint8_t bits : matrix.bits_of_group)
    require(bits == 2 || bits == 3 || bits == 4 || bits == 6 || bits == 8, "codes must have 2, 3, 4, 6 or 8 bits");
  const auto pairs = static_cast<std::size_t>(groups * matrix.rows);
  require(matrix.scales.size() == pairs && matrix.zeros.size() == pairs, "it needs one scale and one zero point for each group and row");
  check_scales(matrix);
  require(matrix.codes.size() == elements, "it needs one code for each weight");
  require(matrix.kept.empty() || matrix.kept.size() == elements, "the mask needs one entry for each weight");
  for (std::uint8_t kept : matrix.kept) require(kept <= 1, "mask entries must be 0 or 1");
  for (std::size_t i = 0; i < pairs; ++i) {
    const unsigned largest = (1u << matrix.bits_of_group[i / static_cast<std::size_t>(matrix.rows)]) - 1;
    require(matrix.zeros[i] <= largest, "a zero point is larger than the largest code");
  }
}

// Columns of each group, ascending.
std::vector<std::vector<std::int64_t>> columns_of(const PackedMatrix& matrix) {
  std::vector<std::vector<std::int64_t>> columns(matrix.bits_of_group.size());
  for (std::int64_t column = 0; column < matrix.cols; ++column)
    columns[matrix.group_of_column[static_cast<std::size_t>(column)]].push_back(column);
  return columns;
}

Blob scale_bytes(const PackedMatrix& matrix) {
  if (matrix.scale_bits > 0) {
    BitWriter codes;
    for (std::size_t i = 0; i < matrix.scales.size(); ++i) {
      const std::size_t rows = static_cast<std::size_t>(matrix.rows);
      const std::uint32_t exponent = matrix.row_exponents[i % rows];
      const float range = matrix.scales[i] * largest_code(matrix, static_cast<std::int64_t>(i / rows));
      codes.put(code_of_range(nearest_range(range, matrix.scale_bits, exponent), matrix.scale_bits, exponent), matrix.scale_bits);
    }
    return codes.take();
  }
  std::vector<std::uint8_t> bytes(matrix.scales.size() * dtype_bytes(matrix.scale_dtype));
  for (std::size_t i = 0; i < matrix.scales.size(); ++i) {
    if (matrix.scale_dtype == DType::F32) {
      std::memcpy(bytes.data() + i * 4, &matrix.scales[i], 4);
    } else {
      const std::uint16_t half = f32_to_f16(matrix.scales[i]);
      std::memcpy(bytes.data() + i * 2, &half, 2);
    }
  }
  return Blob(std::move(bytes));
}

}  // namespace

float nearest_scale(const PackedMatrix& matrix, std::int64_t group, std::int64_t row, float wanted) {
  if (matrix.scale_bits > 0) {
    const float codes = largest_code(matrix, group);
    return nearest_range(wanted * codes, matrix.scale_bits, matrix.row_exponents[static_cast<std::size_t>(row)]) / codes;
  }
  if (matrix.scale_dtype == DType::F32) return wanted;
  return f16_to_f32(f32_to_f16(std::clamp(wanted, 6.103515625e-5f, 65504.0f)));
}

Tensor pack(const PackedMatrix& matrix, DType decoded) {
  check(matrix, decoded);
  BitWriter codes, zeros, mask, groups;
  const auto columns = columns_of(matrix);
  const bool masked = !matrix.kept.empty();
  for (std::size_t g = 0; g < columns.size(); ++g) {
    const int bits = matrix.bits_of_group[g];
    for (std::int64_t row = 0; row < matrix.rows; ++row) {
      zeros.put(matrix.zeros[g * static_cast<std::size_t>(matrix.rows) + static_cast<std::size_t>(row)], bits);
      for (std::int64_t column : columns[g]) {
        const auto at = static_cast<std::size_t>(row * matrix.cols + column);
        if (masked) mask.put(matrix.kept[at], 1);
        if (masked && !matrix.kept[at]) continue;
        require(matrix.codes[at] < (1u << bits), "a code does not fit its group's bits");
        codes.put(matrix.codes[at], bits);
      }
    }
    codes.align();
    zeros.align();
  }
  Tensor tensor;
  tensor.encoding = Encoding::Packed;
  tensor.dtype = decoded;
  tensor.shape = {matrix.rows, matrix.cols};
  tensor.sections.emplace("codes", codes.take());
  tensor.sections.emplace("zeros", zeros.take());
  tensor.sections.emplace("scales", scale_bytes(matrix));
  tensor.sections.emplace("bits", Blob(matrix.bits_of_group));
  if (matrix.scale_bits > 0) {
    std::vector<std::uint8_t> exponents{static_cast<std::uint8_t>(matrix.scale_bits)};
    exponents.insert(exponents.end(), matrix.row_exponents.begin(), matrix.row_exponents.end());
    tensor.sections.emplace("exponents", Blob(std::move(exponents)));
  }
  if (masked) tensor.sections.emplace("mask", mask.take());
  if (const int width = group_index_bits(matrix.groups()); width > 0) {
    for (std::uint16_t group : matrix.group_of_column) groups.put(group, width);
    tensor.sections.emplace("groups", groups.take());
  }
  return tensor;
}

void replace_scales(Tensor& tensor, const PackedMatrix& matrix) {
  require(tensor.encoding == Encoding::Packed && tensor.shape == Shape{matrix.rows, matrix.cols} && matrix.rows > 0,
          "its scales are replaced by those of a matrix of another shape");
  require(matrix.scales.size() == static_cast<std::size_t>(matrix.groups() * matrix.rows), "it needs one scale for each group and row");
  check_scales(matrix);
  Blob scales = scale_bytes(matrix);
  Blob& stored = tensor.sections.at("scales");
  require(scales.size() == stored.size(), "its scales are replaced by those of a matrix with other groups");
  stored = std::move(scales);
}

PackedMatrix unpack(const Tensor& tensor, std::string_view name) {
  const PackedLayout layout = parse_packed(tensor, name);
  PackedMatrix matrix;
  matrix.rows = layout.rows;
  matrix.cols = layout.cols;
  matrix.group_of_column = layout.group_of_column;
  matrix.scale_dtype = layout.scale_dtype;
  matrix.scale_bits = layout.scale_bits;
  for (std::int64_t row = 0; layout.scale_bits > 0 && row < layout.rows; ++row) matrix.row_exponents.push_back(layout.row_exponent(row));
  const auto elements = static_cast<std::size_t>(layout.rows * layout.cols);
  matrix.codes.resize(elements);
  if (layout.masked) matrix.kept.resize(elements);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(layout.cols + PackedLayout::kSlack)), mask(codes.size());
  std::vector<std::vector<std::size_t>> columns(layout.groups.size());
  for (std::size_t column = 0; column < layout.group_of_column.size(); ++column) columns[layout.group_of_column[column]].push_back(column);
  for (std::size_t g = 0; g < layout.groups.size(); ++g) {
    const auto& group = layout.groups[g];
    const auto index = static_cast<std::int64_t>(g);
    matrix.bits_of_group.push_back(static_cast<std::uint8_t>(group.bits));
    std::uint64_t kept = 0;
    for (std::int64_t row = 0; row < layout.rows; ++row) {
      matrix.scales.push_back(layout.scale(index, row));
      matrix.zeros.push_back(static_cast<std::uint8_t>(layout.zero(group, row)));
      auto from = static_cast<std::size_t>(layout.unpack(index, row, 1, kept, codes.data(), mask.data()));
      for (std::size_t column : columns[g]) {
        const std::size_t at = static_cast<std::size_t>(row * layout.cols) + column;
        matrix.codes[at] = codes[from];
        if (layout.masked) matrix.kept[at] = mask[from] & 1;
        ++from;
      }
    }
  }
  return matrix;
}

PackedBits packed_bits(const Tensor& tensor, std::string_view name) {
  const PackedLayout layout = parse_packed(tensor, name, false);
  PackedBits bits;
  bits.weights = static_cast<std::uint64_t>(layout.rows * layout.cols);
  for (const auto& group : layout.groups) {
    bits.kept += group.kept;
    bits.codes += group.kept * static_cast<std::uint64_t>(group.bits);
    bits.zeros += static_cast<std::uint64_t>(layout.rows * group.bits);
  }
  bits.scales = layout.scales_blob.size() * 8;
  if (layout.scale_bits > 0) {
    bits.scales = layout.groups.size() * static_cast<std::uint64_t>(layout.rows * layout.scale_bits) + layout.exponents_blob.size() * 8;
  }
  bits.mask = layout.masked ? bits.weights : 0;
  bits.groups = static_cast<std::uint64_t>(layout.cols * group_index_bits(static_cast<std::int64_t>(layout.groups.size()))) +
                layout.groups.size() * 8;
  bits.alignment = tensor.stored_bytes() * 8 - (bits.codes + bits.scales + bits.zeros + bits.mask + bits.groups);
  return bits;
}

}  // namespace miq
