// Casts against their definition, and the writers that use them.
#include "miq/formats/cast.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "miq/base/error.h"
#include "miq/formats/atomic_file.h"
#include "miq/formats/mapped_file.h"
#include "miq/formats/safetensors_writer.h"

namespace miq {
namespace {

template <typename T>
Blob blob_of(const std::vector<T>& values) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(values.data());
  return Blob(std::vector<std::uint8_t>(bytes, bytes + values.size() * sizeof(T)));
}

template <typename T>
std::vector<T> values_of(const Blob& blob) {
  std::vector<T> values(blob.size() / sizeof(T));
  std::memcpy(values.data(), blob.bytes().data(), blob.size());
  return values;
}

TEST(Cast, Float8E4M3ByDefinition) {
  for (int code = 0; code < 256; ++code) {
    const int exponent = (code >> 3) & 15, fraction = code & 7;
    double expected = exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
    if (code & 0x80) expected = -expected;
    const float found = f8e4m3_to_f32(static_cast<std::uint8_t>(code));
    if ((code & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(found)) << code;
    } else {
      EXPECT_EQ(found, expected) << code;
      EXPECT_EQ(std::signbit(found), (code & 0x80) != 0) << code;
    }
  }
}

TEST(Cast, NarrowTypesWidenExactlyAndComeBack) {
  std::vector<std::uint16_t> all(65536);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  for (const DType dtype : {DType::F16, DType::BF16}) {
    const Blob wide = cast_elements(blob_of(all), dtype, DType::F32, "t");
    const auto values = values_of<float>(wide);
    const auto back = values_of<std::uint16_t>(cast_elements(wide, DType::F32, dtype, "t"));
    for (std::size_t i = 0; i < all.size(); ++i) {
      EXPECT_EQ(std::bit_cast<std::uint32_t>(values[i]),
                std::bit_cast<std::uint32_t>(dtype == DType::F16 ? f16_to_f32(all[i]) : bf16_to_f32(all[i])));
      if (!std::isnan(values[i])) {
        EXPECT_EQ(back[i], all[i]);
      }
    }
  }
}

TEST(Cast, FromFloat64AndFloat8) {
  EXPECT_EQ(values_of<float>(cast_elements(blob_of<double>({0.1, -3.0}), DType::F64, DType::F32, "t")), (std::vector<float>{0.1f, -3.0f}));
  EXPECT_EQ(values_of<float>(cast_elements(blob_of<std::uint8_t>({0x3C, 0xC0}), DType::F8E5M2, DType::F32, "t")), (std::vector<float>{1.0f, -2.0f}));
  EXPECT_EQ(values_of<std::uint16_t>(cast_elements(blob_of<std::uint8_t>({0x7E}), DType::F8E4M3, DType::F16, "t"))[0], f32_to_f16(448));
}

TEST(Cast, TheSameTypeIsNoCast) {
  for (const DType dtype : {DType::F8E4M3, DType::F8E5M2, DType::F64, DType::F32, DType::BF16}) {
    const Blob elements = blob_of<double>({1.5, -0.0});
    EXPECT_EQ(cast_elements(elements, dtype, dtype, "t").bytes().data(), elements.bytes().data());
  }
}

TEST(Cast, RefusesOverflowAndOtherTypes) {
  EXPECT_THROW(cast_elements(blob_of<float>({65520}), DType::F32, DType::F16, "t"), FormatError);
  EXPECT_NO_THROW(cast_elements(blob_of<float>({65519, std::numeric_limits<float>::infinity(), std::nanf("")}), DType::F32, DType::F16, "t"));
  EXPECT_THROW(cast_elements(blob_of<double>({1e300}), DType::F64, DType::BF16, "t"), FormatError);
  EXPECT_THROW(cast_elements(blob_of<std::uint8_t>({1}), DType::U8, DType::F32, "t"), FormatError);
  EXPECT_THROW(cast_elements(blob_of<float>({1}), DType::F32, DType::F8E4M3, "t"), FormatError);
}

// Large writes that lie differently in memory and in the file take another way through AtomicFile.
TEST(AtomicFileWrite, EveryPlaceInACacheLine) {
  const std::string path = (std::filesystem::path(testing::TempDir()) / "miq_places").string();
  std::vector<std::uint8_t> bytes(1 << 20);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 2654435761u >> 13);
  std::vector<std::uint8_t> expected;
  AtomicFile file(path);
  for (const std::size_t size : {std::size_t{1}, (std::size_t{256} << 10) + 1, std::size_t{700001}, std::size_t{63}, (std::size_t{512} << 10), std::size_t{300007}}) {
    for (const std::size_t from : {0u, 1u, 8u, 63u, 64u}) {
      file.write(Bytes(bytes).subspan(from, size));
      expected.insert(expected.end(), bytes.begin() + static_cast<std::ptrdiff_t>(from), bytes.begin() + static_cast<std::ptrdiff_t>(from + size));
      ASSERT_EQ(file.position(), expected.size());
    }
  }
  file.commit();
  const Blob found = map_file(path);
  EXPECT_TRUE(std::ranges::equal(found.bytes(), expected));
  std::filesystem::remove(path);
}

TEST(SafetensorsWriter, WidestFirstThenByNameAndReadBack) {
  const std::string path = (std::filesystem::path(testing::TempDir()) / "miq_writer.safetensors").string();
  int alive = 0;
  const auto item = [&](std::string name, DType dtype, std::vector<std::uint8_t> bytes) {
    return SafetensorsItem{{std::move(name), dtype, {static_cast<std::int64_t>(bytes.size() / dtype_bytes(dtype))}}, [&alive, bytes] {
                             EXPECT_EQ(alive, 0);  // one at a time
                             ++alive;
                             auto owner = std::shared_ptr<const std::vector<std::uint8_t>>(new std::vector<std::uint8_t>(bytes), [&alive](const auto* p) {
                               --alive;
                               delete p;
                             });
                             return Blob(owner, *owner);
                           }};
  };
  write_safetensors(path, {item("a", DType::U8, {1, 2, 3}), item("z", DType::F32, {4, 5, 6, 7}), item("b", DType::F32, {8, 9, 10, 11})}, {{"format", "pt"}});
  const SafetensorsFile file = open_safetensors(path);
  EXPECT_EQ(file.entries.at("b").begin, 0u);
  EXPECT_EQ(file.entries.at("z").begin, 4u);
  EXPECT_EQ(file.entries.at("a").begin, 8u);
  EXPECT_EQ(file.data(file.entries.at("z")).bytes()[3], 7);
  EXPECT_EQ(file.metadata.at("format"), "pt");
  EXPECT_THROW(write_safetensors(path, {{{"a", DType::F32, {2}}, [] { return Blob(std::vector<std::uint8_t>(4)); }}}, {}), Error);
  EXPECT_EQ(open_safetensors(path).entries.size(), 3u);  // the old file is as it was
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace miq
