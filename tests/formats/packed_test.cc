// Packed matrices: every width and code against the bit-by-bit reader, in every arrangement of groups
// and masks, whole and by rows; and what must be refused.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "miq/base/error.h"
#include "miq/formats/packed_layout.h"
#include "miq/formats/packed_matrix.h"
#include "miq/formats/scale_code.h"
#include "tests/reference/packed_reference.h"

namespace miq {
namespace {

constexpr std::uint8_t kWidths[] = {2, 3, 4, 6, 8};

struct Kind {
  std::vector<std::uint8_t> widths;
  bool contiguous = false, masked = false;
  DType scales = DType::F16;
  double density = 0.5;
  int scale_bits = 0;
};

PackedMatrix random_matrix(std::int64_t rows, std::int64_t cols, const Kind& kind, std::mt19937& random) {
  PackedMatrix matrix;
  matrix.rows = rows;
  matrix.cols = cols;
  matrix.bits_of_group = kind.widths;
  matrix.scale_dtype = kind.scales;
  const std::size_t groups = kind.widths.size();
  for (std::int64_t c = 0; c < cols; ++c) {
    const std::size_t group = kind.contiguous ? static_cast<std::size_t>(c) * groups / static_cast<std::size_t>(cols) : random() % groups;
    matrix.group_of_column.push_back(static_cast<std::uint16_t>(group));
  }
  std::normal_distribution<float> normal;
  for (std::size_t i = 0; i < groups * static_cast<std::size_t>(rows); ++i) {
    const float scale = normal(random) * 0.01f;
    matrix.scales.push_back(kind.scales == DType::F16 ? f16_to_f32(f32_to_f16(scale)) : scale);
    matrix.zeros.push_back(static_cast<std::uint8_t>(random() % (1u << kind.widths[i / static_cast<std::size_t>(rows)])));
  }
  if (kind.scale_bits > 0) {
    matrix.scale_dtype = DType::F32;
    matrix.scale_bits = kind.scale_bits;
    for (std::int64_t r = 0; r < rows; ++r) matrix.row_exponents.push_back(static_cast<std::uint8_t>(118 + random() % 6));
    for (std::size_t i = 0; i < matrix.scales.size(); ++i) {
      const auto group = static_cast<std::int64_t>(i) / rows, row = static_cast<std::int64_t>(i) % rows;
      matrix.scales[i] = nearest_scale(matrix, group, row, std::abs(matrix.scales[i]) + 1e-6f);
    }
  }
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    const unsigned bits = kind.widths[matrix.group_of_column[static_cast<std::size_t>(i % cols)]];
    const bool kept = !kind.masked || std::uniform_real_distribution<>()(random) < kind.density;
    if (kind.masked) matrix.kept.push_back(kept);
    matrix.codes.push_back(kept ? static_cast<std::uint8_t>(random() % (1u << bits)) : 0);
  }
  return matrix;
}

std::vector<std::uint32_t> bits_of(std::span<const float> values) {
  std::vector<std::uint32_t> bits;
  for (float value : values) bits.push_back(std::bit_cast<std::uint32_t>(value));
  return bits;
}

// The reference's floats in the stored type.
std::vector<std::uint8_t> as_bytes(const std::vector<float>& values, DType dtype) {
  std::vector<std::uint8_t> bytes(values.size() * dtype_bytes(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::F32) std::memcpy(bytes.data() + i * 4, &values[i], 4);
    const std::uint16_t half = dtype == DType::F16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
    if (dtype != DType::F32) std::memcpy(bytes.data() + i * 2, &half, 2);
  }
  return bytes;
}

void expect_same(const PackedMatrix& a, const PackedMatrix& b) {
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.cols, b.cols);
  EXPECT_EQ(a.group_of_column, b.group_of_column);
  EXPECT_EQ(a.bits_of_group, b.bits_of_group);
  EXPECT_EQ(a.scale_dtype, b.scale_dtype);
  EXPECT_EQ(a.scale_bits, b.scale_bits);
  EXPECT_EQ(a.row_exponents, b.row_exponents);
  EXPECT_EQ(bits_of(a.scales), bits_of(b.scales));
  EXPECT_EQ(a.zeros, b.zeros);
  EXPECT_EQ(a.codes, b.codes);
  EXPECT_EQ(a.kept, b.kept);
}

void check_matrix(const PackedMatrix& matrix) {
  ThreadPool pool(3);
  const std::vector<float> expected = reference::decode_matrix(matrix);
  for (DType dtype : {DType::F32, DType::F16, DType::BF16}) {
    const Tensor tensor = pack(matrix, dtype);
    ASSERT_EQ(bits_of(reference::decode_packed(tensor)), bits_of(expected));
    const std::vector<std::uint8_t> bytes = as_bytes(expected, dtype);
    const Blob decoded = decode(tensor, "w");
    ASSERT_TRUE(std::equal(decoded.bytes().begin(), decoded.bytes().end(), bytes.begin(), bytes.end()));
    const Blob parallel = decode(tensor, "w", &pool);
    ASSERT_TRUE(std::equal(parallel.bytes().begin(), parallel.bytes().end(), bytes.begin(), bytes.end()));
    const PackedDecoder decoder(tensor, "w");
    const std::size_t row_bytes = bytes.size() / static_cast<std::size_t>(matrix.rows);
    for (std::int64_t begin = 0; begin < matrix.rows; begin += 1 + matrix.rows / 3) {
      const std::int64_t end = std::min(matrix.rows, begin + 1 + matrix.rows / 2);
      std::vector<std::uint8_t> part(static_cast<std::size_t>(end - begin) * row_bytes);
      decoder.decode_rows(begin, end, dtype, part);
      ASSERT_EQ(0, std::memcmp(part.data(), bytes.data() + static_cast<std::size_t>(begin) * row_bytes, part.size()))
          << begin << ".." << end;
    }
    expect_same(unpack(tensor, "w"), matrix);
    const PackedBits bits = packed_bits(tensor, "w");
    EXPECT_EQ(bits.total(), tensor.stored_bytes() * 8);
    EXPECT_LT(bits.alignment, 16 * matrix.bits_of_group.size() + 16);
  }
}

TEST(Packed, EveryCodeAndZeroOfEveryWidth) {
  for (std::uint8_t bits : kWidths) {
    // A row for each zero point, a column for each code, one more column so that rows start within a byte.
    PackedMatrix matrix;
    matrix.rows = matrix.cols = 1 << bits;
    ++matrix.cols;
    matrix.bits_of_group = {bits};
    matrix.group_of_column.assign(static_cast<std::size_t>(matrix.cols), 0);
    for (std::int64_t r = 0; r < matrix.rows; ++r) {
      matrix.scales.push_back(r % 2 == 0 ? 0.75f : -1.0f / 1024);
      matrix.zeros.push_back(static_cast<std::uint8_t>(r));
      for (std::int64_t c = 0; c < matrix.cols; ++c) matrix.codes.push_back(static_cast<std::uint8_t>(c % matrix.rows));
    }
    check_matrix(matrix);
    matrix.kept.resize(matrix.codes.size());
    for (std::size_t i = 0; i < matrix.kept.size(); ++i) {
      matrix.kept[i] = i % 3 != 0;
      if (!matrix.kept[i]) matrix.codes[i] = 0;
    }
    check_matrix(matrix);
  }
}

TEST(Packed, EveryArrangementOfGroupsAndMasks) {
  std::mt19937 random(7);
  const std::vector<std::vector<std::uint8_t>> widths = {{4}, {3}, {6}, {2, 8}, {2, 3, 4, 6, 8}, {3, 3, 6, 6, 2, 4, 4, 8, 3}};
  for (const auto& list : widths) {
    for (bool contiguous : {true, false}) {
      for (bool masked : {true, false}) {
        for (DType scales : {DType::F16, DType::F32}) {
          for (double density : {0.5, 0.03, 1.0}) {
            if (!masked && density != 0.5) continue;
            const Kind kind{list, contiguous, masked, scales, density};
            check_matrix(
                random_matrix(1 + static_cast<std::int64_t>(random() % 150), 9 + static_cast<std::int64_t>(random() % 90), kind, random));
          }
        }
      }
    }
  }
}

TEST(Packed, CodedScalesOfEveryWidth) {
  std::mt19937 random(21);
  for (int scale_bits = 4; scale_bits <= 8; ++scale_bits) {
    for (bool masked : {true, false}) {
      check_matrix(random_matrix(1, 1, {{4}, true, masked, DType::F32, 0.5, scale_bits}, random));
      check_matrix(random_matrix(131, 67, {{2, 3, 4, 6, 8}, false, masked, DType::F32, 0.5, scale_bits}, random));
      check_matrix(random_matrix(9, 90, {{3, 8, 2}, true, masked, DType::F32, 0.3, scale_bits}, random));
    }
  }
}

// All codes at the least and greatest exponent, and between: what they stand for, that it is a normal number, and that
// rounding finds each again and chooses between neighbours as it says.
TEST(Packed, RangesAreThoseOfTheirCodes) {
  for (int bits = kLeastScaleBits; bits <= kMostScaleBits; ++bits) {
    for (std::uint32_t exponent : {kLeastRowExponent, 127u, kMostRowExponent}) {
      const int steps = 1 << (bits - 3);
      for (std::uint32_t code = 0; code < (1u << bits); ++code) {
        const float range = coded_range(code, bits, exponent), part = 1 + static_cast<float>(code % steps) / static_cast<float>(steps);
        ASSERT_EQ(range, std::ldexp(part, static_cast<int>(code) / steps - 7 + static_cast<int>(exponent) - 127));
        ASSERT_TRUE(std::isnormal(range / 255));
        ASSERT_EQ(code_of_range(range, bits, exponent), code);
        ASSERT_EQ(nearest_range(range, bits, exponent), range);
        ASSERT_EQ(range_not_below(range, bits, exponent), range);
        if (code + 1 == (1u << bits)) continue;
        const float next = coded_range(code + 1, bits, exponent), middle = range + (next - range) / 2;
        ASSERT_EQ(range_not_below(std::nextafter(range, INFINITY), bits, exponent), next);
        ASSERT_EQ(nearest_range(middle, bits, exponent), next);
        ASSERT_EQ(nearest_range(std::nextafter(middle, 0.0f), bits, exponent), range);
      }
      const float least = coded_range(0, bits, exponent), most = coded_range((1u << bits) - 1, bits, exponent);
      for (float small : {0.0f, least / 2}) {
        EXPECT_EQ(nearest_range(small, bits, exponent), least);
        EXPECT_EQ(range_not_below(small, bits, exponent), least);
      }
      EXPECT_EQ(nearest_range(INFINITY, bits, exponent), most);
      EXPECT_EQ(range_not_below(std::nextafter(most, INFINITY), bits, exponent), most);
    }
  }
  for (float range : {1e-30f, 0.3f, 1.0f, 1.34f, 777.0f, 1e30f}) {
    const std::uint32_t exponent = row_exponent(range);
    EXPECT_GE(coded_range(255, 8, exponent), 1.49f * range);
    EXPECT_LE(coded_range(255, 8, exponent), 3.0f * range);
  }
  EXPECT_EQ(row_exponent(0), kLeastRowExponent);
  EXPECT_EQ(row_exponent(3e38f), kMostRowExponent);
}

TEST(Packed, NearestScaleIsStoredAsTheMatrixStoresItsScales) {
  PackedMatrix matrix;
  matrix.rows = matrix.cols = 1;
  matrix.bits_of_group = {3};
  EXPECT_EQ(nearest_scale(matrix, 0, 0, 0.1f), f16_to_f32(f32_to_f16(0.1f)));
  EXPECT_EQ(nearest_scale(matrix, 0, 0, 1e-9f), 6.103515625e-5f);
  matrix.scale_dtype = DType::F32;
  EXPECT_EQ(nearest_scale(matrix, 0, 0, 0.1f), 0.1f);
  matrix.scale_bits = 5;  // four steps an octave
  matrix.row_exponents = {127};
  EXPECT_EQ(nearest_scale(matrix, 0, 0, 0.1f), 0.75f / 7);
  EXPECT_EQ(nearest_scale(matrix, 0, 0, 100.0f), 1.75f / 7);
}

TEST(Packed, SmallestAndWideShapes) {
  std::mt19937 random(8);
  for (std::uint8_t bits : kWidths) {
    for (bool masked : {false, true}) {
      check_matrix(random_matrix(1, 1, {{bits}, true, masked}, random));
      check_matrix(random_matrix(7, 1, {{bits}, true, masked}, random));
      check_matrix(random_matrix(3, 20000, {{bits, 3}, false, masked}, random));
    }
  }
  check_matrix(random_matrix(5, 300, {std::vector<std::uint8_t>(300, 3), false, true}, random));  // more groups than a byte counts
}

TEST(Packed, PortableUnpackingEqualsBitDeposit) {
  std::mt19937 random(14);
  if (!has_bit_deposit()) GTEST_SKIP() << "this processor has no bit deposit instruction";
  for (std::uint8_t bits : kWidths) {
    PackedLayout layout = parse_packed(pack(random_matrix(70, 37, {{bits}, true, true}, random)), "w");
    std::vector<std::uint8_t> codes[2], mask[2];
    for (bool deposit : {false, true}) {
      layout.bit_deposit = deposit;
      codes[deposit].resize(40 * 37 + PackedLayout::kSlack);
      mask[deposit].resize(40 * 37 + PackedLayout::kSlack);
      std::uint64_t kept = layout.kept_above(0, 25);
      ASSERT_EQ(layout.unpack(0, 25, 40, kept, codes[deposit].data(), mask[deposit].data()), 0);
      EXPECT_EQ(kept, layout.kept_above(0, 65));
    }
    EXPECT_EQ(codes[0], codes[1]);
    EXPECT_EQ(mask[0], mask[1]);
  }
}

TEST(Packed, AllPrunedHasNoCodes) {
  std::mt19937 random(9);
  PackedMatrix matrix = random_matrix(4, 12, {{3, 4}, false, true, DType::F16, 0.0}, random);
  const Tensor tensor = pack(matrix);
  EXPECT_EQ(tensor.sections.at("codes").size(), 0u);
  EXPECT_EQ(count_zeros(tensor, "w"), 48);
  check_matrix(matrix);
}

TEST(Packed, PrunedWeightsArePlusZeroUnderNegativeScales) {
  PackedMatrix matrix;
  matrix.rows = 1;
  matrix.cols = 2;
  matrix.group_of_column = {0, 0};
  matrix.bits_of_group = {4};
  matrix.scales = {-2.0f};
  matrix.zeros = {5};
  matrix.codes = {5, 0};
  matrix.kept = {1, 0};
  const Blob decoded = decode(pack(matrix), "w");
  float values[2];
  std::memcpy(values, decoded.bytes().data(), 8);
  EXPECT_TRUE(std::signbit(values[0]));
  EXPECT_EQ(std::bit_cast<std::uint32_t>(values[1]), 0u);
}

TEST(Packed, BitsAreCountedAsStored) {
  std::mt19937 random(10);
  const PackedMatrix matrix = random_matrix(10, 21, {{3, 6, 4}, false, true}, random);
  const Tensor tensor = pack(matrix);
  const PackedBits bits = packed_bits(tensor, "w");
  std::uint64_t kept = 0, codes = 0;
  for (std::size_t i = 0; i < matrix.codes.size(); ++i) {
    kept += matrix.kept[i];
    codes += matrix.kept[i] ? matrix.bits_of_group[matrix.group_of_column[i % 21]] : 0u;
  }
  EXPECT_EQ(bits.weights, 210u);
  EXPECT_EQ(bits.kept, kept);
  EXPECT_EQ(bits.codes, codes);
  EXPECT_EQ(bits.scales, 3u * 10 * 16);
  EXPECT_EQ(bits.zeros, 10u * (3 + 6 + 4));
  EXPECT_EQ(bits.mask, 210u);
  EXPECT_EQ(bits.groups, 21u * 2 + 3 * 8);
  EXPECT_EQ(bits.total(), tensor.stored_bytes() * 8);
}

TEST(Packed, MatricesThatBreakARuleAreNotStored) {
  std::mt19937 random(11);
  const PackedMatrix good = random_matrix(6, 10, {{3, 4}, false, true}, random);
  ASSERT_NO_THROW(pack(good));
  const auto refused = [&](const std::function<void(PackedMatrix&)>& change) {
    PackedMatrix bad = good;
    change(bad);
    EXPECT_THROW(pack(bad), Error);
  };
  refused([](PackedMatrix& m) { m.group_of_column[3] = 2; });
  refused([](PackedMatrix& m) { m.group_of_column.pop_back(); });
  refused([](PackedMatrix& m) { m.bits_of_group[0] = 5; });
  refused([](PackedMatrix& m) { m.scales[2] = std::numeric_limits<float>::quiet_NaN(); });
  refused([](PackedMatrix& m) { m.scales[2] = std::numeric_limits<float>::infinity(); });
  refused([](PackedMatrix& m) { m.scales[2] = 0.1f; });  // no F16 number
  refused([](PackedMatrix& m) { m.scales.pop_back(); });
  refused([](PackedMatrix& m) { m.zeros[0] = 8; });
  refused([](PackedMatrix& m) { m.codes.pop_back(); });
  refused([](PackedMatrix& m) { m.kept[5] = 2; });
  refused([](PackedMatrix& m) { m.kept.pop_back(); });
  refused([](PackedMatrix& m) { m.rows = 0; });
  refused([](PackedMatrix& m) {
    for (auto& code : m.codes) code = 16;
  });
  EXPECT_THROW(pack(good, DType::I32), Error);
}

TEST(Packed, CodedScalesAreCountedAsStored) {
  std::mt19937 random(22);
  const Tensor tensor = pack(random_matrix(10, 21, {{3, 6, 4}, false, false, DType::F32, 0.5, 5}, random));
  const PackedBits bits = packed_bits(tensor, "w");
  EXPECT_EQ(bits.scales, 3u * 10 * 5 + (10 + 1) * 8);
  EXPECT_EQ(bits.total(), tensor.stored_bytes() * 8);
}

TEST(Packed, CodedScalesThatBreakARuleAreNotStored) {
  std::mt19937 random(23);
  const PackedMatrix good = random_matrix(6, 10, {{3, 4}, false, false, DType::F32, 0.5, 8}, random);
  ASSERT_NO_THROW(pack(good));
  const auto refused = [&](const std::function<void(PackedMatrix&)>& change) {
    PackedMatrix bad = good;
    change(bad);
    EXPECT_THROW(pack(bad), Error);
  };
  refused([](PackedMatrix& m) { m.scales[3] = std::nextafter(m.scales[3], 1.0f); });
  refused([](PackedMatrix& m) { m.scales[3] *= 300; });
  refused([](PackedMatrix& m) { m.scales[3] = 0; });
  refused([](PackedMatrix& m) { m.scales[3] = -m.scales[3]; });
  refused([](PackedMatrix& m) { m.row_exponents[2] = 15; });
  refused([](PackedMatrix& m) { m.row_exponents[2] = 255; });
  refused([](PackedMatrix& m) { m.row_exponents.pop_back(); });
  refused([](PackedMatrix& m) { m.scale_bits = 3; });
  refused([](PackedMatrix& m) { m.scale_bits = 0; });
  refused([](PackedMatrix& m) { m.scale_dtype = DType::F16; });
}

TEST(Packed, CodedScalesThatContradictTheSpecAreRefused) {
  std::mt19937 random(24);
  const Tensor good = pack(random_matrix(5, 11, {{3, 4, 2}, false, true, DType::F32, 0.5, 7}, random));
  const auto refused = [&](const char* section, const std::function<void(std::vector<std::uint8_t>&)>& change, const char* says) {
    Tensor bad = good;
    std::vector<std::uint8_t> bytes(good.sections.at(section).bytes().begin(), good.sections.at(section).bytes().end());
    change(bytes);
    bad.sections[section] = Blob(bytes);
    for (const std::function<void()>& read : {std::function<void()>([&] { decode(bad, "layer.w"); }), std::function<void()>([&] { unpack(bad, "layer.w"); }),
                                              std::function<void()>([&] { check_tensor(bad, "layer.w"); }),
                                              std::function<void()>([&] { packed_bits(bad, "layer.w"); })}) {
      try {
        read();
        ADD_FAILURE() << section << " " << says;
      } catch (const FormatError& error) {
        EXPECT_NE(std::string(error.what()).find("tensor layer.w"), std::string::npos) << error.what();
        EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
      }
    }
  };
  for (const char* section : {"scales", "exponents"}) {
    refused(section, [](auto& bytes) { bytes.push_back(0); }, section);
    refused(section, [](auto& bytes) { bytes.pop_back(); }, section);
    refused(section, [](auto& bytes) { bytes.clear(); }, section);
  }
  refused("scales", [](auto& bytes) { bytes.back() |= 0x80; }, "beyond");  // 3 * 5 * 7 = 105 bits
  refused("exponents", [](auto& bytes) { bytes[0] = 3; }, "3 bits");
  refused("exponents", [](auto& bytes) { bytes[0] = 9; }, "9 bits");
  refused("exponents", [](auto& bytes) { bytes[0] = 8; }, "scales");
  refused("exponents", [](auto& bytes) { bytes[4] = 15; }, "row 3");
  refused("exponents", [](auto& bytes) { bytes[5] = 255; }, "row 4");
  Tensor bad = good;
  bad.sections.erase("exponents");
  EXPECT_THROW(decode(bad, "w"), FormatError);
}

// What a file may say; each must be refused in the tensor's name, by every reader.
TEST(Packed, SectionsThatContradictEachOtherAreRefused) {
  std::mt19937 random(12);
  const Tensor good = pack(random_matrix(5, 11, {{3, 4, 2}, false, true}, random));
  ASSERT_NO_THROW(check_tensor(good, "w"));
  const auto refused = [&](const char* section, const std::function<void(std::vector<std::uint8_t>&)>& change, const char* says) {
    Tensor bad = good;
    std::vector<std::uint8_t> bytes(good.sections.at(section).bytes().begin(), good.sections.at(section).bytes().end());
    change(bytes);
    bad.sections[section] = Blob(bytes);
    try {
      decode(bad, "layer.w");
      FAIL() << section << " " << says;
    } catch (const FormatError& error) {
      EXPECT_NE(std::string(error.what()).find("tensor layer.w"), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
    }
    EXPECT_THROW(unpack(bad, "layer.w"), FormatError);
    EXPECT_THROW(check_tensor(bad, "layer.w"), FormatError);
  };
  const auto longer = [](std::vector<std::uint8_t>& bytes) { bytes.push_back(0); };
  const auto shorter = [](std::vector<std::uint8_t>& bytes) { bytes.pop_back(); };
  for (const char* section : {"codes", "scales", "zeros", "groups", "mask"}) {
    refused(section, longer, section);
    refused(section, shorter, section);
  }
  refused("bits", longer, "0 bits");
  refused(
      "bits", [](auto& bytes) { bytes[1] = 7; }, "7 bits");
  refused(
      "bits", [](auto& bytes) { bytes.clear(); }, "0 groups");
  refused(
      "bits", [](auto& bytes) { bytes.assign(12, 2); }, "12 groups");
  refused(
      "scales", [](auto& bytes) { bytes[7] = 0x7C, bytes[6] = 0; }, "row 3");  // infinity
  refused(
      "scales", [](auto& bytes) { bytes[11] = 0xFE; }, "group 1, row 0");  // NaN
  refused(
      "groups", [](auto& bytes) { bytes[0] |= 3; }, "in group 3 of 3");
  refused(
      "groups", [](auto& bytes) { bytes.back() |= 0x80; }, "beyond");
  refused(
      "mask", [](auto& bytes) { bytes.back() |= 0x80; }, "beyond");
  refused(
      "mask", [](auto& bytes) { std::fill(bytes.begin(), bytes.end() - 1, 0xFF); }, "codes");
  refused(
      "zeros", [](auto& bytes) { bytes[1] |= 0x80; }, "group 0");  // 5 rows * 3 bits = 15
  for (const char* section : {"codes", "scales", "zeros", "bits", "groups"}) {
    Tensor bad = good;
    bad.sections.erase(section);
    EXPECT_THROW(decode(bad, "w"), FormatError) << section;
  }
  Tensor bad = good;
  bad.sections["more"] = Blob(std::string_view("x"));
  EXPECT_THROW(decode(bad, "w"), FormatError);
  for (const Shape& shape : {Shape{5}, Shape{5, 11, 1}, Shape{0, 11}, Shape{-5, 11}, Shape{std::int64_t{1} << 40, std::int64_t{1} << 40},
                             Shape{11, 5}, Shape{1, INT32_MAX}}) {
    bad = good;
    bad.shape = shape;
    EXPECT_THROW(check_tensor(bad, "w"), FormatError);
    EXPECT_THROW(decode(bad, "w"), FormatError);
  }
}

// Damage that no checksum caught: an error or wrong values, but nothing read outside the sections (the
// sanitizers' builds see that) and no other exception.
TEST(Packed, RandomDamageIsRefusedOrDecoded) {
  std::mt19937 random(15);
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    const bool masked = random() % 2;
    std::vector<std::uint8_t> widths(1 + random() % 4);
    for (auto& width : widths) width = kWidths[random() % 5];
    Tensor tensor = pack(random_matrix(1 + random() % 9, 5 + random() % 12, {widths, random() % 2 == 0, masked, DType::F32, 0.5, random() % 2 ? 0 : 4 + static_cast<int>(random() % 5)}, random));
    for (unsigned damages = 1 + random() % 2; damages > 0; --damages) {
      auto section = tensor.sections.begin();
      std::advance(section, random() % tensor.sections.size());
      std::vector<std::uint8_t> bytes(section->second.bytes().begin(), section->second.bytes().end());
      const unsigned kind = random() % 8;
      if (kind == 0) bytes.resize(random() % 40);
      if (kind == 1) tensor.shape[random() % 2] += static_cast<std::int64_t>(random() % 5) - 2;
      if (kind > 1 && !bytes.empty()) bytes[random() % bytes.size()] ^= static_cast<std::uint8_t>(1u << (random() % 8));
      section->second = Blob(bytes);
    }
    try {
      EXPECT_EQ(decode(tensor, "w").size(), static_cast<std::size_t>(tensor.elements()) * 4);
      unpack(tensor, "w");
    } catch (const FormatError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
  EXPECT_LT(refused, 3000);
}

TEST(Packed, RowsOutsideTheMatrixAreRefused) {
  std::mt19937 random(13);
  const PackedDecoder decoder(pack(random_matrix(5, 8, {{4}, true, false}, random)), "w");
  std::vector<std::uint8_t> out(2 * 8 * 4);
  EXPECT_NO_THROW(decoder.decode_rows(3, 5, DType::F32, out));
  EXPECT_THROW(decoder.decode_rows(4, 6, DType::F32, out), Error);
  EXPECT_THROW(decoder.decode_rows(-1, 1, DType::F32, out), Error);
  EXPECT_THROW(decoder.decode_rows(0, 2, DType::BF16, out), Error);
  EXPECT_THROW(decoder.decode_rows(0, 2, DType::I32, out), Error);
}

}  // namespace
}  // namespace miq
