// Dense, bitmask and zstd tensors: the same bits come back, and sections that lie are refused.
#include "miq/formats/tensor.h"

#include <gtest/gtest.h>
#include <zstd.h>

#include <cstring>
#include <functional>
#include <random>

#include "miq/base/error.h"
#include "miq/formats/packed_matrix.h"

namespace miq {
namespace {

constexpr DType kAll[] = {DType::Bool, DType::U8,     DType::I8,     DType::U16, DType::I16,  DType::U32, DType::I32, DType::U64,
                          DType::I64,  DType::F8E4M3, DType::F8E5M2, DType::F16, DType::BF16, DType::F32, DType::F64};

std::vector<std::uint8_t> to_vector(const Blob& blob) { return {blob.bytes().begin(), blob.bytes().end()}; }

// Random bits, of which the given share of elements is +0.0, with a few -0.0 among them.
Tensor random_tensor(DType dtype, std::int64_t elements, double zeros, std::mt19937& random) {
  const std::size_t width = dtype_bytes(dtype);
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(elements) * width);
  for (std::int64_t i = 0; i < elements; ++i) {
    std::uint8_t* element = bytes.data() + static_cast<std::size_t>(i) * width;
    const double draw = std::uniform_real_distribution<>()(random);
    if (draw < zeros) continue;
    if (draw > 0.97) {
      element[width - 1] = 0x80;
      continue;
    }
    for (std::size_t k = 0; k < width; ++k) element[k] = static_cast<std::uint8_t>(random());
  }
  return dense_tensor(dtype, {elements}, Blob(std::move(bytes)));
}

TEST(Tensor, EncodingNamesGoBothWays) {
  for (Encoding encoding : {Encoding::Dense, Encoding::Zstd, Encoding::Bitmask, Encoding::Packed}) {
    EXPECT_EQ(encoding_from_name(encoding_name(encoding)), encoding);
  }
  EXPECT_FALSE(encoding_from_name("lz4"));
}

TEST(Tensor, EveryEncodingGivesBackEveryBit) {
  std::mt19937 random(1);
  for (DType dtype : kAll) {
    for (std::int64_t elements : {0, 1, 7, 8, 9, 64, 1000}) {
      for (double zeros : {0.0, 0.5, 1.0}) {
        const Tensor dense = random_tensor(dtype, elements, zeros, random);
        const auto expected = to_vector(dense.sections.at("data"));
        for (const Tensor& encoded :
             {encode_bitmask(dense), encode_zstd(dense), encode_best(dense, true), encode_best(dense, false), dense}) {
          EXPECT_EQ(encoded.shape, dense.shape);
          EXPECT_EQ(encoded.dtype, dtype);
          ASSERT_NO_THROW(check_tensor(encoded, "w"));
          EXPECT_EQ(to_vector(decode(encoded, "w")), expected);
          std::vector<std::uint8_t> out(expected.size(), 0xAA);
          decode(encoded, "w", out);
          EXPECT_EQ(out, expected);
          EXPECT_EQ(count_zeros(encoded, "w"), count_zeros(dense, "w"));
          EXPECT_LE(encoded.stored_bytes(), dense.stored_bytes() + 128 + dense.stored_bytes() / 4);
        }
      }
    }
  }
}

TEST(Tensor, MinusZeroIsStoredAndCountedAsZero) {
  const std::uint32_t words[] = {0x80000000u, 0, 0x3F800000u, 0};
  std::vector<std::uint8_t> bytes(16);
  std::memcpy(bytes.data(), words, 16);
  const Tensor mask = encode_bitmask(dense_tensor(DType::F32, {4}, Blob(bytes)));
  EXPECT_EQ(to_vector(mask.sections.at("mask")), std::vector<std::uint8_t>{0b0101});
  EXPECT_EQ(mask.sections.at("values").size(), 8u);
  EXPECT_EQ(to_vector(decode(mask, "w")), bytes);
  EXPECT_EQ(count_zeros(mask, "w"), 3);
  // For integers that bit is a value.
  EXPECT_EQ(count_zeros(dense_tensor(DType::I32, {4}, Blob(bytes)), "w"), 2);
}

TEST(Tensor, TheBestEncodingIsTheSmallestThatPays) {
  std::mt19937 random(2);
  EXPECT_EQ(encode_best(random_tensor(DType::F32, 4096, 0.0, random), false).encoding, Encoding::Dense);
  EXPECT_EQ(encode_best(random_tensor(DType::F32, 4096, 0.5, random), false).encoding, Encoding::Bitmask);
  EXPECT_EQ(encode_best(dense_tensor(DType::F32, {4096}, Blob(std::vector<std::uint8_t>(16384, 1))), true).encoding, Encoding::Zstd);
  EXPECT_EQ(encode_best(dense_tensor(DType::F32, {4096}, Blob(std::vector<std::uint8_t>(16384, 1))), false).encoding, Encoding::Dense);
}

TEST(Tensor, WrongBuffersAndSizesAreRefused) {
  std::mt19937 random(3);
  Tensor tensor = random_tensor(DType::F32, 10, 0.5, random);
  std::vector<std::uint8_t> out(39);
  EXPECT_THROW(decode(tensor, "w", out), Error);
  for (const Shape& shape : {Shape{8}, Shape{17}, Shape{-10}, Shape{std::int64_t{1} << 62, 4}}) {
    for (Tensor bad : {tensor, encode_bitmask(tensor), encode_zstd(tensor)}) {
      bad.shape = shape;
      EXPECT_THROW(check_tensor(bad, "w"), FormatError) << encoding_name(bad.encoding);
      EXPECT_THROW(decode(bad, "w"), FormatError) << encoding_name(bad.encoding);
    }
  }
}

void expect_refused(const Tensor& tensor, const char* says) {
  try {
    decode(tensor, "layer.w");
    FAIL() << "accepted: " << says;
  } catch (const FormatError& error) {
    EXPECT_NE(std::string(error.what()).find("tensor layer.w"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
  }
}

TEST(Tensor, MasksThatContradictTheirValuesAreRefused) {
  std::mt19937 random(4);
  const Tensor good = encode_bitmask(random_tensor(DType::F16, 21, 0.5, random));
  const auto changed = [&](const char* section, const std::function<void(std::vector<std::uint8_t>&)>& change) {
    Tensor bad = good;
    std::vector<std::uint8_t> bytes = to_vector(good.sections.at(section));
    change(bytes);
    bad.sections[section] = Blob(bytes);
    return bad;
  };
  expect_refused(changed("mask", [](auto& bytes) { bytes[0] ^= 1; }), "'values'");
  expect_refused(changed("mask", [](auto& bytes) { bytes[2] |= 0x20; }), "beyond");
  expect_refused(changed("mask", [](auto& bytes) { bytes.push_back(0); }), "'mask'");
  expect_refused(changed("values", [](auto& bytes) { bytes.pop_back(); }), "'values'");
  Tensor bad = good;
  bad.sections.erase("mask");
  expect_refused(bad, "missing");
  bad = good;
  bad.sections["data"] = Blob(std::string_view("x"));
  expect_refused(bad, "does not belong");
}

Tensor as_zstd(std::vector<std::uint8_t> frame, Shape shape) {
  Tensor tensor = dense_tensor(DType::U8, std::move(shape), Blob(std::move(frame)));
  tensor.encoding = Encoding::Zstd;
  return tensor;
}

std::vector<std::uint8_t> compress(const std::vector<std::uint8_t>& data, const std::function<void(ZSTD_CCtx*)>& set) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  set(context);
  std::vector<std::uint8_t> frame(ZSTD_compressBound(data.size()));
  frame.resize(ZSTD_compress2(context, frame.data(), frame.size(), data.data(), data.size()));
  ZSTD_freeCCtx(context);
  return frame;
}

TEST(Tensor, HostileZstdFramesAreRefused) {
  const std::vector<std::uint8_t> data(100, 7);
  const auto plain = compress(data, [](ZSTD_CCtx*) {});
  EXPECT_EQ(to_vector(decode(as_zstd(plain, {100}), "w")), data);
  expect_refused(as_zstd(plain, {99}), "states 100 bytes");
  expect_refused(as_zstd(compress(data, [](ZSTD_CCtx* c) { ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 0); }), {100}),
                 "content size");
  auto two = plain;
  two.insert(two.end(), plain.begin(), plain.end());
  expect_refused(as_zstd(two, {100}), "exactly one");
  auto cut = plain;
  cut.pop_back();
  expect_refused(as_zstd(cut, {100}), "");
  expect_refused(as_zstd({0x50, 0x2A, 0x4D, 0x18, 0, 0, 0, 0}, {0}), "no zstd frame");  // a skippable frame
  // A window of 16 MiB, in a frame whose content does not fit one of 8.
  const std::vector<std::uint8_t> large(20u << 20, 1);
  const auto wide = compress(large, [](ZSTD_CCtx* c) { ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, 24); });
  expect_refused(as_zstd(wide, {20 << 20}), "window");
  EXPECT_NO_THROW(decode(encode_zstd(dense_tensor(DType::U8, {20 << 20}, Blob(large)), 22), "w"));
}

TEST(Tensor, EveryDamagedByteOfAZstdFrameIsRefusedOrHarmless) {
  std::mt19937 random(5);
  const Tensor good = encode_zstd(random_tensor(DType::F16, 300, 0.7, random));
  const auto frame = to_vector(good.sections.at("data"));
  for (std::size_t i = 0; i < frame.size(); ++i) {
    for (unsigned flip : {1u, 0x80u, 0xFFu}) {
      Tensor bad = good;
      auto bytes = frame;
      bytes[i] = static_cast<std::uint8_t>(bytes[i] ^ flip);
      bad.sections["data"] = Blob(bytes);
      try {
        EXPECT_EQ(decode(bad, "w").size(), 600u);  // the container's checksums find the wrong values
      } catch (const FormatError&) {
      }
    }
  }
}

TEST(Tensor, ABombIsRefusedBeforeMemoryIsTaken) {
  // 1 TiB of content stated by a frame of a few bytes.
  std::vector<std::uint8_t> frame = {0x28, 0xB5, 0x2F, 0xFD, 0xC0, 0x58};
  const std::uint64_t content = std::uint64_t{1} << 40;
  for (int k = 0; k < 8; ++k) frame.push_back(static_cast<std::uint8_t>(content >> (8 * k)));
  frame.insert(frame.end(), {1, 0, 0});
  expect_refused(as_zstd(frame, {1 << 20, 1 << 20}), "states");
}

}  // namespace
}  // namespace miq
