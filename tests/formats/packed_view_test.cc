// What the kernels for packed matrices compute, a warp at a time on the CPU, against PackedDecoder and products in double.
#include "miq/formats/packed_view.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <random>

#include "miq/base/error.h"
#include "miq/formats/cast.h"
#include "miq/formats/packed_matrix.h"
#include "tests/reference/packed_emulation.h"

namespace miq {
namespace {

enum class Scales { Half, Single, Coded };

struct Shape {
  std::int64_t rows, cols;
  std::vector<std::uint8_t> widths;
  bool contiguous, masked;
  double density = 0.5;
  Scales scales = Scales::Half;
};

// Half: near those of real matrices. Single: of either sign and any size, so that weights are below and beyond what float16 holds. Coded: of five bits.
void add_scales(const Shape& shape, std::mt19937& random, PackedMatrix& matrix) {
  if (shape.scales == Scales::Single) matrix.scale_dtype = DType::F32;
  if (shape.scales == Scales::Coded) {
    matrix.scale_dtype = DType::F32;
    matrix.scale_bits = 5;
    for (std::int64_t row = 0; row < shape.rows; ++row) matrix.row_exponents.push_back(static_cast<std::uint8_t>(120 + random() % 4));
  }
  for (std::int64_t group = 0; group < matrix.groups(); ++group) {
    for (std::int64_t row = 0; row < shape.rows; ++row) {
      const float size = std::normal_distribution<float>(0, 0.01f)(random);
      if (shape.scales == Scales::Half) matrix.scales.push_back(f16_to_f32(f32_to_f16(size)));
      if (shape.scales == Scales::Single) matrix.scales.push_back(std::ldexp(size, static_cast<int>(random() % 50) - 25));
      if (shape.scales == Scales::Coded) matrix.scales.push_back(nearest_scale(matrix, group, row, std::abs(size) + 1e-6f));
    }
  }
}

Tensor random_packed(const Shape& shape, std::mt19937& random, DType decoded = DType::BF16) {
  PackedMatrix matrix;
  matrix.rows = shape.rows;
  matrix.cols = shape.cols;
  matrix.bits_of_group = shape.widths;
  const std::size_t groups = shape.widths.size();
  for (std::int64_t c = 0; c < shape.cols; ++c) {
    const std::size_t group = shape.contiguous ? static_cast<std::size_t>(c) * groups / static_cast<std::size_t>(shape.cols) : random() % groups;
    matrix.group_of_column.push_back(static_cast<std::uint16_t>(group));
  }
  add_scales(shape, random, matrix);
  for (std::size_t i = 0; i < groups * static_cast<std::size_t>(shape.rows); ++i) {
    matrix.zeros.push_back(static_cast<std::uint8_t>(random() % (1u << shape.widths[i / static_cast<std::size_t>(shape.rows)])));
  }
  for (std::int64_t i = 0; i < shape.rows * shape.cols; ++i) {
    const unsigned bits = shape.widths[matrix.group_of_column[static_cast<std::size_t>(i % shape.cols)]];
    const bool kept = !shape.masked || std::uniform_real_distribution<>()(random) < shape.density;
    if (shape.masked) matrix.kept.push_back(kept);
    matrix.codes.push_back(kept ? static_cast<std::uint8_t>(random() % (1u << bits)) : 0);
  }
  return pack(matrix, decoded);
}

using reference::for_octets;

std::vector<float> decoded_as_stored(const Tensor& tensor) {
  const Blob bytes = decode(tensor, "w");
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::uint16_t half = 0;
    if (tensor.dtype != DType::F32) std::memcpy(&half, bytes.bytes().data() + 2 * i, 2);
    if (tensor.dtype == DType::F32) std::memcpy(&values[i], bytes.bytes().data() + 4 * i, 4);
    if (tensor.dtype == DType::F16) values[i] = f16_to_f32(half);
    if (tensor.dtype == DType::BF16) values[i] = bf16_to_f32(half);
  }
  return values;
}

// What the kernel writes, of every type that a tensor may decode to, from arrays that were copied as one piece: the decoder's numbers, to the bit.
void check_decoding(const Shape& shape, std::mt19937& random) {
  SCOPED_TRACE(std::to_string(shape.rows) + " x " + std::to_string(shape.cols) + ", " + std::to_string(shape.widths.size()) + " groups" +
               (shape.masked ? ", masked" : "") + (shape.contiguous ? "" : ", scattered"));
  for (const DType dtype : {DType::F32, DType::F16, DType::BF16}) {
    const Tensor tensor = random_packed(shape, random, dtype);
    PackedArrays arrays = packed_arrays(tensor, "w");
    std::vector<std::uint64_t> image((arrays.image_bytes() + 7) / 8);
    const std::span<std::uint8_t> bytes(reinterpret_cast<std::uint8_t*>(image.data()), arrays.image_bytes());
    const PackedView view = arrays.write_image(bytes, image.data());
    EXPECT_LE(arrays.bytes(), arrays.image_bytes());
    EXPECT_LE(arrays.image_bytes(), most_image_bytes(tensor));
    // The view has nothing to do with the arrays any more.
    const auto spoil = [](auto& array) {
      if (!array.empty()) std::memset(static_cast<void*>(array.data()), 0xA5, array.size() * sizeof(array[0]));
    };
    spoil(arrays.octets), spoil(arrays.groups), spoil(arrays.codes), spoil(arrays.zeros), spoil(arrays.mask);
    spoil(arrays.scales), spoil(arrays.kept_before), spoil(arrays.column_of_place);
    const std::vector<float> values = decoded_as_stored(tensor);
    std::vector<std::uint32_t> expected, wide(values.size(), 0xFFFFFFFF);
    std::vector<std::uint16_t> expected_short, narrow(values.size(), 0xFFFF);
    for (const float value : values) {
      expected.push_back(float_bits(value));
      expected_short.push_back(f32_to_bf16(value));
    }
    std::vector<float> floats(values.size());
    reference::packed_decode(view, packed_rounding(dtype), floats.data());
    std::memcpy(wide.data(), floats.data(), wide.size() * 4);
    reference::packed_decode(view, packed_rounding(dtype), narrow.data());
    EXPECT_EQ(wide, expected) << dtype_name(dtype);
    EXPECT_EQ(narrow, expected_short) << dtype_name(dtype);
  }
}

void check(const Shape& shape, std::mt19937& random) {
  SCOPED_TRACE(std::to_string(shape.rows) + " x " + std::to_string(shape.cols) + ", " + std::to_string(shape.widths.size()) + " groups" +
               (shape.masked ? ", masked" : "") + (shape.contiguous ? "" : ", scattered"));
  const Tensor tensor = random_packed(shape, random);
  const PackedArrays arrays = packed_arrays(tensor, "w");
  const PackedView view = arrays.view();
  const std::size_t weights = static_cast<std::size_t>(shape.rows * shape.cols);
  std::vector<std::uint16_t> expected(weights), decoded(weights, 0xFFFF);
  std::vector<float> exact(weights);
  const PackedDecoder decoder(tensor, "w");
  decoder.decode(DType::BF16, {reinterpret_cast<std::uint8_t*>(expected.data()), weights * 2});
  decoder.decode(DType::F32, {reinterpret_cast<std::uint8_t*>(exact.data()), weights * 4});
  const auto column_of = [&](std::int64_t place) { return view.column_of_place ? view.column_of_place[place] : static_cast<std::uint32_t>(place); };
  std::vector<float> x(static_cast<std::size_t>(shape.cols)), ordered(static_cast<std::size_t>(shape.cols + kOctet));
  for (float& value : x) value = std::normal_distribution<float>()(random);
  for (std::int64_t place = 0; place < shape.cols; ++place) ordered[static_cast<std::size_t>(place)] = x[column_of(place)];
  for (std::int64_t row = 0; row < shape.rows; ++row) {
    float sum = 0;
    for_octets(view, row, [&](const PackedOctet& octet, std::uint64_t codes, std::uint32_t kept) {
      const PackedGroupView& group = view.group[octet.group];
      const float scale = view.scales[octet.group * view.rows + row];
      const int zero = zero_point(view, group, row);
      std::uint16_t values[kOctet];
      octet_decode(codes, kept, group.bits, zero, scale, kBfloat16Numbers, values);
      float inputs[kOctet] = {};
      for (int i = 0; i < octet.count; ++i) {
        decoded[static_cast<std::size_t>(row * shape.cols + column_of(octet.column + i))] = values[i];
        inputs[i] = ordered[octet.column + static_cast<std::uint32_t>(i)];
      }
      sum += scale * octet_product(view, codes, kept, group.bits, zero, inputs);
    });
    double wanted = 0, size = 1e-6;
    for (std::int64_t c = 0; c < shape.cols; ++c) {
      const double term = static_cast<double>(exact[static_cast<std::size_t>(row * shape.cols + c)]) * static_cast<double>(x[static_cast<std::size_t>(c)]);
      wanted += term;
      size += std::abs(term);
    }
    EXPECT_LT(std::abs(static_cast<double>(sum) - wanted) / size, 2e-6) << "row " << row;
  }
  EXPECT_EQ(decoded, expected);
}

TEST(PackedView, EveryLayoutDecodesToTheDecodersBits) {
  std::mt19937 random(5);
  for (const Scales scales : {Scales::Half, Scales::Single, Scales::Coded}) {
    for (const bool masked : {false, true}) {
      for (const bool contiguous : {false, true}) {
        for (const std::uint8_t bits : {2, 3, 4, 6, 8}) {
          check_decoding({5, 264, {bits}, contiguous, masked, 0.5, scales}, random);
          check_decoding({9, 131, {bits, 4, bits}, contiguous, masked, 0.3, scales}, random);
        }
        check_decoding({3, 700, {2, 3, 4, 6, 8, 8, 6, 4, 3, 2}, contiguous, masked, 0.7, scales}, random);
        check_decoding({200, 64, {2, 2, 2, 2, 2, 2, 2, 2}, contiguous, masked, 0.7, scales}, random);  // mostly scales
        check_decoding({1, 1, {4}, contiguous, masked, 0.7, scales}, random);
      }
    }
  }
}

TEST(PackedView, RoundsToHalvesAsTheDecoder) {
  std::int64_t infinite = 0, small = 0;
  for (std::uint32_t high = 0; high < 0x10000; ++high) {
    for (const std::uint32_t low : {0u, 1u, 0xFFFu, 0x1000u, 0x1001u, 0x1FFFu, 0x2000u, 0x2FFFu, 0x3000u, 0x3001u, 0x7FFFu, 0x8000u, 0xF000u, 0xFFFFu}) {
      const float value = float_of_bits((high << 16) | low);
      if (std::isnan(value)) continue;
      const float expected = f16_to_f32(f32_to_f16(value));
      ASSERT_EQ(float_bits(rounded_to_half(value)), float_bits(expected)) << value;
      infinite += std::isinf(expected);
      small += expected != 0 && std::abs(expected) < 0x1p-14f;
    }
  }
  EXPECT_GT(infinite, 1000);
  EXPECT_GT(small, 1000);
}

TEST(PackedView, AnImageNeedsItsOwnSize) {
  std::mt19937 random(6);
  const Tensor tensor = random_packed({64, 1024, {4, 4, 4, 4, 4, 4, 4, 4}, true, true}, random);
  const PackedArrays arrays = packed_arrays(tensor, "w");
  std::vector<std::uint8_t> memory(arrays.image_bytes() + 16);
  EXPECT_THROW(arrays.write_image(memory, memory.data()), Error);
  // The bound is not much more than what it bounds.
  EXPECT_LT(most_image_bytes(tensor), arrays.image_bytes() * 5 / 4);
}

TEST(PackedView, EveryWidth) {
  std::mt19937 random(1);
  for (const std::uint8_t bits : {2, 3, 4, 6, 8}) {
    for (const bool masked : {false, true}) {
      check({1, 1, {bits}, true, masked}, random);
      check({5, 8, {bits}, true, masked}, random);
      check({7, 131, {bits}, true, masked}, random);
      check({3, 517, {bits}, true, masked, 0.1}, random);
      check({2, 1024, {bits, bits, bits, bits, bits, bits, bits, bits}, true, masked}, random);
    }
  }
}

TEST(PackedView, MixedGroups) {
  std::mt19937 random(2);
  for (int round = 0; round < 60; ++round) {
    std::vector<std::uint8_t> widths;
    for (std::size_t groups = 1 + random() % 12; widths.size() < groups;) widths.push_back(std::array<std::uint8_t, 5>{2, 3, 4, 6, 8}[random() % 5]);
    const auto cols = static_cast<std::int64_t>(widths.size() + random() % 700), rows = static_cast<std::int64_t>(1 + random() % 20);
    check({rows, cols, widths, random() % 2 == 0, random() % 2 == 0, std::uniform_real_distribution<>()(random)}, random);
  }
}

TEST(PackedView, NothingAndEverythingKept) {
  std::mt19937 random(3);
  check({4, 300, {3, 4}, true, true, 0.0}, random);
  check({4, 300, {3, 4}, false, true, 1.0}, random);
}

TEST(PackedView, CountsWhatIsRead) {
  std::mt19937 random(4);
  const PackedArrays arrays = packed_arrays(random_packed({64, 1024, {4, 4, 4, 4, 4, 4, 4, 4}, true, false}, random), "w");
  EXPECT_EQ(arrays.octets.size(), 128u);
  EXPECT_EQ(arrays.runs, 8);
  EXPECT_TRUE(arrays.kept_before.empty());
  EXPECT_LT(arrays.bytes(), 64u * 1024 / 2 * 12 / 10 + 4096);
}

}  // namespace
}  // namespace miq
