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

struct Shape {
  std::int64_t rows, cols;
  std::vector<std::uint8_t> widths;
  bool contiguous, masked;
  double density = 0.5;
};

Tensor random_packed(const Shape& shape, std::mt19937& random) {
  PackedMatrix matrix;
  matrix.rows = shape.rows;
  matrix.cols = shape.cols;
  matrix.bits_of_group = shape.widths;
  const std::size_t groups = shape.widths.size();
  for (std::int64_t c = 0; c < shape.cols; ++c) {
    const std::size_t group = shape.contiguous ? static_cast<std::size_t>(c) * groups / static_cast<std::size_t>(shape.cols) : random() % groups;
    matrix.group_of_column.push_back(static_cast<std::uint16_t>(group));
  }
  for (std::size_t i = 0; i < groups * static_cast<std::size_t>(shape.rows); ++i) {
    matrix.scales.push_back(f16_to_f32(f32_to_f16(std::normal_distribution<float>(0, 0.01f)(random))));
    matrix.zeros.push_back(static_cast<std::uint8_t>(random() % (1u << shape.widths[i / static_cast<std::size_t>(shape.rows)])));
  }
  for (std::int64_t i = 0; i < shape.rows * shape.cols; ++i) {
    const unsigned bits = shape.widths[matrix.group_of_column[static_cast<std::size_t>(i % shape.cols)]];
    const bool kept = !shape.masked || std::uniform_real_distribution<>()(random) < shape.density;
    if (shape.masked) matrix.kept.push_back(kept);
    matrix.codes.push_back(kept ? static_cast<std::uint8_t>(random() % (1u << bits)) : 0);
  }
  return pack(matrix, DType::BF16);
}

using reference::for_octets;

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
      octet_decode(codes, kept, group.bits, zero, scale, values);
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
