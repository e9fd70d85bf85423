// GGUF files built byte by byte: good ones, and every way we know to make a bad one.
#include "miq/formats/gguf.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

#include "miq/base/error.h"
#include "tests/formats/gguf_maker.h"

namespace miq {
namespace {

using namespace gguf_maker;

GgufFile read(const std::string& text) { return read_gguf(Blob(std::string_view(text)), "x.gguf"); }

std::string refusal(const std::string& text) {
  try {
    read(text);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "accepted";
}

void expect_refusal(const Maker& maker, const std::string& part) {
  const std::string message = refusal(maker.text);
  EXPECT_NE(message.find(part), std::string::npos) << "wanted: " << part << "\ngot:    " << message;
  EXPECT_EQ(message.rfind("x.gguf: ", 0), 0u) << message;
}

// Metadata of every type and two tensors.
Maker good(std::uint32_t version = 3) {
  Maker m;
  m.start(2, 15, version);
  m.key("u8", U8).put<std::uint8_t>(200).key("i8", I8).put<std::int8_t>(-3).key("u16", U16).put<std::uint16_t>(60000);
  m.key("i16", I16).put<std::int16_t>(-30000).key("u32", U32).u32(4000000000u).key("i32", I32).put<std::int32_t>(-7);
  m.key("u64", U64).u64(UINT64_MAX).key("i64", I64).put<std::int64_t>(INT64_MIN).key("f32", F32).put(0.5f).key("f64", F64).put(-0.25);
  m.key("bool", Bool).put<std::uint8_t>(1).key("string", String).string("text");
  m.key("strings", Array).u32(String).u64(2).string("").string("b");
  m.key("floats", Array).u32(F32).u64(2).put(1.0f).put(2.0f);
  m.key("bools", Array).u32(Bool).u64(3).put<std::uint8_t>(1).put<std::uint8_t>(0).put<std::uint8_t>(1);
  m.tensor("a", {4, 2}, 0, 0).tensor("b", {32, 1}, 2, 32).align();
  return m.raw(std::string(32, 'a')).raw(std::string(18, 'b'));
}

TEST(Gguf, ReadsEveryTypeOfMetadata) {
  for (std::uint32_t version : {2u, 3u}) {
    const GgufFile file = read(good(version).text);
    EXPECT_EQ(file.version, version);
    const auto& m = file.metadata;
    EXPECT_EQ(m.size(), 15u);
    EXPECT_EQ(m.at("u8"), GgufValue(std::uint64_t{200}));
    EXPECT_EQ(m.at("i8"), GgufValue(std::int64_t{-3}));
    EXPECT_EQ(m.at("u16"), GgufValue(std::uint64_t{60000}));
    EXPECT_EQ(m.at("i16"), GgufValue(std::int64_t{-30000}));
    EXPECT_EQ(m.at("u32"), GgufValue(std::uint64_t{4000000000u}));
    EXPECT_EQ(m.at("i32"), GgufValue(std::int64_t{-7}));
    EXPECT_EQ(m.at("u64"), GgufValue(UINT64_MAX));
    EXPECT_EQ(m.at("i64"), GgufValue(std::int64_t{INT64_MIN}));
    EXPECT_EQ(m.at("f32"), GgufValue(0.5));
    EXPECT_EQ(m.at("f64"), GgufValue(-0.25));
    EXPECT_EQ(m.at("bool"), GgufValue(true));
    EXPECT_EQ(m.at("string"), GgufValue(std::string("text")));
    EXPECT_EQ(m.at("strings"), GgufValue(std::vector<std::string>{"", "b"}));
    EXPECT_EQ(m.at("floats"), GgufValue(std::vector<double>{1, 2}));
    EXPECT_EQ(m.at("bools"), GgufValue(std::vector<bool>{true, false, true}));
  }
}

TEST(Gguf, ReadsNumberArraysOfEveryWidth) {
  Maker m;
  m.start(0, 8);
  m.key("u8", Array).u32(U8).u64(2).raw("\xff\x01").key("i8", Array).u32(I8).u64(1).raw("\xff");
  m.key("u16", Array).u32(U16).u64(1).raw("\xff\xff").key("i16", Array).u32(I16).u64(1).raw("\xff\xff");
  m.key("u32", Array).u32(U32).u64(1).u32(7).key("i32", Array).u32(I32).u64(1).u32(UINT32_MAX);
  m.key("none", Array).u32(I64).u64(0).key("f64", Array).u32(F64).u64(1).put(3.0);
  const auto values = read(m.text).metadata;
  EXPECT_EQ(values.at("u8"), GgufValue(std::vector<std::uint64_t>{255, 1}));
  EXPECT_EQ(values.at("i8"), GgufValue(std::vector<std::int64_t>{-1}));
  EXPECT_EQ(values.at("u16"), GgufValue(std::vector<std::uint64_t>{65535}));
  EXPECT_EQ(values.at("i16"), GgufValue(std::vector<std::int64_t>{-1}));
  EXPECT_EQ(values.at("u32"), GgufValue(std::vector<std::uint64_t>{7}));
  EXPECT_EQ(values.at("i32"), GgufValue(std::vector<std::int64_t>{-1}));
  EXPECT_EQ(values.at("none"), GgufValue(std::vector<std::int64_t>{}));
  EXPECT_EQ(values.at("f64"), GgufValue(std::vector<double>{3}));
}

TEST(Gguf, ReadsTensorsWithTheirDimensionsReversed) {
  const GgufFile file = read(good().text);
  ASSERT_EQ(file.tensors.size(), 2u);
  EXPECT_EQ(file.tensors.at("a").shape, Shape({2, 4}));
  EXPECT_EQ(file.tensors.at("a").data.text(), std::string(32, 'a'));
  EXPECT_EQ(file.tensors.at("b").type, 2u);
  EXPECT_EQ(file.tensors.at("b").data.text(), std::string(18, 'b'));
  EXPECT_EQ(dequantize_gguf(file.tensors.at("b"), "b").size(), 32u);
}

TEST(Gguf, ReadsAnyOrderGapsPaddingScalarsAndEmptyTensors) {
  Maker m;
  m.start(4, 0).tensor("late", {1}, 0, 64).tensor("early", {1}, 0, 0).tensor("scalar", {}, 0, 96).tensor("empty", {0, 3}, 0, 0).align();
  m.raw("1111").align().align(64).raw(std::string(64 - (m.text.size() % 64), '-'));
  m.text.resize(m.text.size() + 256);
  const GgufFile file = read(m.text);
  EXPECT_EQ(file.tensors.at("early").data.text(), "1111");
  EXPECT_EQ(file.tensors.at("scalar").shape, Shape{});
  EXPECT_EQ(file.tensors.at("empty").shape, Shape({3, 0}));
  EXPECT_TRUE(file.tensors.at("empty").data.empty());
}

TEST(Gguf, ReadsOtherAlignments) {
  for (std::uint32_t alignment : {1u, 8u, 64u, 1u << 20}) {
    Maker m;
    m.start(1, 1).key("general.alignment", U32).u32(alignment).tensor("a", {4}, 0, 0).align(alignment).raw("0123456789abcdef");
    EXPECT_EQ(read(m.text).tensors.at("a").data.text(), "0123456789abcdef");
  }
}

TEST(Gguf, ListsTensorsItCannotDecode) {
  Maker m;
  m.start(2, 0).tensor("iq", {256}, 16, 0).tensor("new", {3, 5}, 1234, 96).align().raw(std::string(128, 'x'));
  const GgufFile file = read(m.text);
  EXPECT_EQ(file.tensors.at("iq").data.size(), 66u);
  EXPECT_EQ(file.tensors.at("new").shape, Shape({5, 3}));
  EXPECT_TRUE(file.tensors.at("new").data.empty());
}

TEST(Gguf, ReadsAFileWithoutTensorsOrPadding) {
  Maker m;
  m.start(0, 1).key("k", U8).raw("1");
  EXPECT_EQ(refusal(m.text), "accepted");
  EXPECT_EQ(refusal(Maker().start(0, 0).text), "accepted");
}

TEST(GgufRefuses, TruncationAtEveryByte) {
  const std::string whole = good().text;
  for (std::size_t length = 0; length < whole.size(); ++length) EXPECT_NE(refusal(whole.substr(0, length)), "accepted") << length;
  EXPECT_EQ(refusal(whole), "accepted");
}

TEST(GgufRefuses, FilesThatAreSomethingElse) {
  expect_refusal(Maker(), "is empty");
  expect_refusal(Maker().raw("version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer");
  expect_refusal(Maker().raw("<!doctype html>"), "web page");
  expect_refusal(Maker().raw("PK\x03\x04"), "zip archive");
  expect_refusal(Maker().raw("ggjt\1\0\0\0"), "GGJT");
  expect_refusal(Maker().raw("GG"), "cut short: 2 bytes");
  expect_refusal(Maker().raw("ggufxxxx"), "begins with 'gguf'");
  expect_refusal(Maker().raw("FUGG\0\0\0\3"), "begins with 'FUGG'");
}

TEST(GgufRefuses, OtherVersions) {
  expect_refusal(Maker().start(0, 0, 0), "GGUF version 0");
  expect_refusal(Maker().start(0, 0, 1), "GGUF version 1; versions 2 and 3 are read. Convert the model again");
  expect_refusal(Maker().start(0, 0, 4), "GGUF version 4; versions 2 and 3 are read. Look for a newer miq");
  expect_refusal(Maker().start(0, 0, 0x03000000), "big-endian");
  expect_refusal(Maker().start(0, 0, 0x02000000), "big-endian");
  expect_refusal(Maker().start(0, 0, UINT32_MAX), "GGUF version 4294967295");
}

TEST(GgufRefuses, CountsThatTheFileCannotHold) {
  for (std::uint64_t count : {std::uint64_t{1}, std::uint64_t{1} << 31, std::uint64_t{1} << 32, std::uint64_t{1} << 63, UINT64_MAX / 64,
                              UINT64_MAX / 24 + 1, UINT64_MAX}) {
    expect_refusal(Maker().start(count, 0), "states " + std::to_string(count) + " tensors, more than");
    expect_refusal(Maker().start(0, count), "states " + std::to_string(count) + " metadata values, more than");
    for (std::uint32_t type : {U8, I8, U16, I16, U32, I32, F32, Bool, String, U64, I64, F64}) {
      if (count == 1) continue;
      expect_refusal(Maker().start(0, 1).key("k", Array).u32(type).u64(count).raw(std::string(16, '\0')),
                     "states " + std::to_string(count) + " array elements, more than");
    }
  }
}

TEST(GgufRefuses, StringsLongerThanTheFile) {
  for (std::uint64_t length : {std::uint64_t{100}, std::uint64_t{1} << 31, std::uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 31}) {
    expect_refusal(Maker().start(0, 1).u64(length).raw("0123456789abcdef"), "a metadata key takes");
    expect_refusal(Maker().start(0, 1).key("k", String).u64(length).raw("x"), "is cut short: k takes");
    expect_refusal(Maker().start(0, 1).key("k", Array).u32(String).u64(1).u64(length).raw("x"), "is cut short: k takes");
    expect_refusal(Maker().start(1, 0).u64(length).raw("0123456789abcdef0123"), "a tensor's name takes");
  }
}

TEST(GgufRefuses, BadKeys) {
  expect_refusal(Maker().start(0, 1).key("", U8).raw("1"), "a metadata key is empty");
  expect_refusal(Maker().start(0, 1).key(std::string(65536, 'k'), U8).raw("1"), "a metadata key of 65536 bytes");
  EXPECT_EQ(refusal(Maker().start(0, 1).key(std::string(65535, 'k'), U8).raw("1").text), "accepted");
  expect_refusal(Maker().start(0, 2).key("k", U8).raw("1").key("k", U8).raw("1"), "metadata key 'k' appears twice");
}

TEST(GgufRefuses, BadValueTypes) {
  for (std::uint32_t type : {13u, 14u, 255u, UINT32_MAX}) {
    expect_refusal(Maker().start(0, 1).key("k", type).u64(0), "metadata 'k' has the unknown type " + std::to_string(type));
    expect_refusal(Maker().start(0, 1).key("k", Array).u32(type).u64(0),
                   "metadata 'k' is an array of the unknown type " + std::to_string(type));
  }
  expect_refusal(Maker().start(0, 1).key("k", Array).u32(Array).u64(0), "array of arrays");
}

TEST(GgufRefuses, TruthValuesOtherThanZeroAndOne) {
  expect_refusal(Maker().start(0, 1).key("k", Bool).raw("\2"), "a truth value of 2");
  expect_refusal(Maker().start(0, 1).key("k", Array).u32(Bool).u64(2).raw("\1\xff"), "a truth value of 255");
}

TEST(GgufRefuses, BadAlignments) {
  for (std::uint32_t alignment : {0u, 3u, 33u, 1u << 21, UINT32_MAX, 1u << 31}) {
    expect_refusal(Maker().start(0, 1).key("general.alignment", U32).u32(alignment), "general.alignment is " + std::to_string(alignment));
  }
  expect_refusal(Maker().start(0, 1).key("general.alignment", U64).u64(32), "not an unsigned 32-bit number");
  expect_refusal(Maker().start(0, 1).key("general.alignment", String).string("32"), "not an unsigned 32-bit number");
  expect_refusal(Maker().start(0, 1).key("general.alignment", Array).u32(U32).u64(1).u32(32), "not an unsigned 32-bit number");
}

Maker with_tensor(const std::string& name, const std::vector<std::uint64_t>& dimensions, std::uint32_t type, std::uint64_t offset) {
  return Maker().start(1, 0).tensor(name, dimensions, type, offset).align().raw(std::string(4096, 'x'));
}

TEST(GgufRefuses, BadTensorNames) {
  expect_refusal(with_tensor("", {4}, 0, 0), "a tensor's name is empty");
  expect_refusal(with_tensor(std::string(65, 'n'), {4}, 0, 0), "a tensor's name of 65 bytes");
  EXPECT_EQ(refusal(with_tensor(std::string(64, 'n'), {4}, 0, 0).text), "accepted");
  expect_refusal(Maker().start(2, 0).tensor("a", {4}, 0, 0).tensor("a", {4}, 0, 32).align().raw(std::string(64, 'x')),
                 "tensor 'a' appears twice");
}

TEST(GgufRefuses, BadDimensions) {
  expect_refusal(with_tensor("a", {1, 1, 1, 1, 1}, 0, 0), "tensor 'a' has 5 dimensions");
  expect_refusal(Maker().start(1, 0).string("a").u32(UINT32_MAX).raw(std::string(64, 'x')), "has 4294967295 dimensions");
  expect_refusal(with_tensor("a", {std::uint64_t{1} << 63}, 0, 0), "has a dimension of 9223372036854775808");
  expect_refusal(with_tensor("a", {UINT64_MAX}, 0, 0), "has a dimension of 18446744073709551615");
}

TEST(GgufRefuses, ShapesThatOverflow) {
  // Products that wrap to zero, to a small number, to a negative one; and byte counts that do.
  expect_refusal(with_tensor("a", {std::uint64_t{1} << 32, std::uint64_t{1} << 32}, 0, 0), "too large");
  expect_refusal(with_tensor("a", {std::uint64_t{1} << 62, 4}, 24, 0), "too large");
  expect_refusal(with_tensor("a", {(std::uint64_t{1} << 32) + 1, std::uint64_t{1} << 32}, 24, 0), "too large");
  expect_refusal(with_tensor("a", {INT64_MAX, 2, 2}, 24, 0), "too large");
  expect_refusal(with_tensor("a", {std::uint64_t{1} << 62}, 0, 0), "too large");
  expect_refusal(with_tensor("a", {(std::uint64_t{1} << 61) + 1, 2}, 0, 0), "too large");
  expect_refusal(with_tensor("a", {std::uint64_t{1} << 40, std::uint64_t{1} << 22}, 8, 0), "beyond the end of the file");
}

TEST(GgufRefuses, RowsThatAreNoWholeBlocks) {
  expect_refusal(with_tensor("a", {33, 32}, 2, 0), "rows of 33 elements cannot be cut into Q4_0 blocks of 32");
  expect_refusal(with_tensor("a", {128, 2}, 12, 0), "rows of 128 elements cannot be cut into Q4_K blocks of 256");
  expect_refusal(with_tensor("a", {}, 2, 0), "rows of 1 elements");
}

TEST(GgufRefuses, BadOffsets) {
  expect_refusal(with_tensor("a", {4}, 0, 16), "begins at 16, no multiple of the alignment 32");
  expect_refusal(with_tensor("a", {4}, 0, 4096), "beyond the end of the file");
  expect_refusal(with_tensor("a", {1024}, 0, 32), "beyond the end of the file");
  expect_refusal(with_tensor("a", {4}, 0, UINT64_MAX - 31), "beyond the end of the file");
  expect_refusal(with_tensor("a", {4}, 0, std::uint64_t{1} << 63), "beyond the end of the file");
  expect_refusal(with_tensor("a", {4}, 777, std::uint64_t{1} << 63), "beyond the end of the file");
  expect_refusal(with_tensor("a", {1024, 1024}, 12, 0), "The file is cut short: download it again");
}

TEST(GgufRefuses, OverlappingTensors) {
  const auto two = [](std::uint64_t first, std::uint64_t second) {
    return Maker().start(2, 0).tensor("a", {16}, 0, first).tensor("b", {16}, 0, second).align().raw(std::string(128, 'x'));
  };
  EXPECT_EQ(refusal(two(0, 64).text), "accepted");
  EXPECT_EQ(refusal(two(64, 0).text), "accepted");
  expect_refusal(two(0, 32), "tensor 'b' overlaps");
  expect_refusal(two(32, 0), "tensor 'a' overlaps");
  expect_refusal(two(0, 0), "overlaps");
}

TEST(GgufRefuses, MessagesArePrintable) {
  for (char c : refusal(Maker().start(0, 1).key("\x1b[2J\xff", 77).u64(0).text)) EXPECT_GE(c, 0x20);
}

// Any single byte changed must end in a refusal or in tensors that lie inside the file.
TEST(Gguf, DamagedFilesNeverReachOutside) {
  const std::string whole = good().text;
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (int flip = 1; flip < 256; ++flip) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ flip);
      const Blob blob{std::string_view(damaged)};
      try {
        for (const auto& [name, tensor] : read_gguf(blob, "x").tensors) {
          if (tensor.data.empty()) continue;
          ASSERT_GE(tensor.data.bytes().data(), blob.bytes().data());
          ASSERT_LE(tensor.data.bytes().data() + tensor.data.size(), blob.bytes().data() + blob.size());
          if (ggml_type_decodable(tensor.type)) dequantize_gguf(tensor, name);
        }
      } catch (const FormatError&) {
      }
    }
  }
}

TEST(Gguf, ManyKeysAndTensorsTakeLinearTime) {
  Maker m;
  const int count = 200'000;
  m.start(count, count);
  for (int i = 0; i < count; ++i) m.key("key" + std::to_string(i), U32).u32(i);
  for (int i = 0; i < count; ++i) m.tensor("tensor" + std::to_string(i), {1}, 0, std::uint64_t{32} * (count - 1 - i));
  m.align().text.resize(m.text.size() + std::size_t{32} * count);
  const Blob blob{std::string_view(m.text)};
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(read_gguf(blob, "x").tensors.size(), static_cast<std::size_t>(count));
  // A quadratic step would take minutes here.
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 20);
}

}  // namespace
}  // namespace miq
