// Good files, and every way we know to make a bad one.
#include "miq/formats/safetensors.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <string>

#include "miq/base/error.h"

namespace miq {
namespace {

std::string file_of(const std::string& header, const std::string& data) {
  std::string text(8, '\0');
  for (int i = 0; i < 8; ++i) text[i] = static_cast<char>(std::uint64_t{header.size()} >> (8 * i));
  return text + header + data;
}

std::string file_with_length(std::uint64_t length, const std::string& rest) {
  std::string text(8, '\0');
  for (int i = 0; i < 8; ++i) text[i] = static_cast<char>(length >> (8 * i));
  return text + rest;
}

SafetensorsFile read(const std::string& text) { return read_safetensors(Blob(std::string_view(text)), "x.safetensors"); }

std::string refusal(const std::string& text) {
  try {
    read(text);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "accepted";
}

void expect_refusal(const std::string& text, const std::string& part) {
  const std::string message = refusal(text);
  EXPECT_NE(message.find(part), std::string::npos) << "wanted: " << part << "\ngot:    " << message;
}

// A header of one F32 tensor "a" of shape [2], with parts replaced.
std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "{\"a\":{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}";
}
const std::string kData8(8, 'x');
const std::string kGood = one("\"F32\"", "[2]", "[0,8]");

TEST(Safetensors, ReadsTensorsAndMetadata) {
  const SafetensorsFile file = read(file_of(
      R"({"__metadata__":{"format":"pt","k":""},"b":{"data_offsets":[4,8],"dtype":"U8","shape":[2,2]},"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}})",
      "abcdefgh"));
  ASSERT_EQ(file.entries.size(), 2u);
  EXPECT_EQ(file.entries.at("a").dtype, DType::F16);
  EXPECT_EQ(file.entries.at("a").shape, Shape({2}));
  EXPECT_EQ(file.data(file.entries.at("a")).text(), "abcd");
  EXPECT_EQ(file.entries.at("b").shape, Shape({2, 2}));
  EXPECT_EQ(file.data(file.entries.at("b")).text(), "efgh");
  EXPECT_EQ(file.metadata, (std::map<std::string, std::string>{{"format", "pt"}, {"k", ""}}));
}

TEST(Safetensors, ReadsNoTensorsScalarsAndEmptyTensors) {
  EXPECT_TRUE(read(file_of("{}", "")).entries.empty());
  EXPECT_TRUE(read(file_of("{\"__metadata__\":null}", "")).metadata.empty());
  EXPECT_EQ(read(file_of(one("\"F64\"", "[]", "[0,8]"), kData8)).entries.at("a").shape, Shape{});
  EXPECT_EQ(read(file_of(one("\"F64\"", "[3,0]", "[0,0]"), "")).entries.at("a").shape, Shape({3, 0}));
  // Empty tensors may share a place with each other and with the start of a full one.
  EXPECT_EQ(read(file_of(R"({"z":{"dtype":"U8","shape":[0],"data_offsets":[4,4]},"y":{"dtype":"U8","shape":[0],"data_offsets":[4,4]},)"
                         R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
                         kData8))
                .entries.size(),
            4u);
}

TEST(Safetensors, ReadsPaddingAroundTheHeader) {
  EXPECT_EQ(refusal(file_of(kGood + "     ", kData8)), "accepted");
  EXPECT_EQ(refusal(file_of("\n \t" + kGood, kData8)), "accepted");
}

TEST(Safetensors, MetadataKeyAfterNullMetadataIsATensorAgain) {
  EXPECT_EQ(read(file_of("{\"__metadata__\":null," + kGood.substr(1), kData8)).entries.size(), 1u);
}

TEST(Safetensors, WrittenHeadersReadBack) {
  const std::vector<SafetensorsLayout> layout = {
      {"wide", DType::F64, {2, 3}}, {"\"quoted\" \303\251\n", DType::BF16, {5}}, {"empty", DType::I8, {0, 7}}, {"scalar", DType::Bool, {}}};
  for (std::size_t alignment : {0, 1, 8, 64, 4096}) {
    const std::string header = safetensors_header(layout, {{"k", "v\\"}, {"", "x"}}, alignment);
    EXPECT_EQ(header.size() % std::max<std::size_t>(alignment, 1), 0u);
    EXPECT_EQ(header[8], '{');
    const SafetensorsFile file = read(header + std::string(48 + 10 + 0 + 1, 'd'));
    EXPECT_EQ(file.metadata.at("k"), "v\\");
    ASSERT_EQ(file.entries.size(), 4u);
    EXPECT_EQ(file.entries.at("wide").begin, 0u);
    EXPECT_EQ(file.entries.at("\"quoted\" \303\251\n").begin, 48u);
    EXPECT_EQ(file.entries.at("scalar").end, 59u);
    EXPECT_EQ(file.entries.at("empty").shape, Shape({0, 7}));
  }
}

TEST(Safetensors, EmptyHeaderIsWritten) { EXPECT_EQ(refusal(safetensors_header({}, {})), "accepted"); }

TEST(Safetensors, WriterRefusesWhatCannotBeRead) {
  EXPECT_THROW(safetensors_header({{"a", DType::F32, {1}}, {"a", DType::F32, {1}}}, {}), Error);
  EXPECT_THROW(safetensors_header({{"__metadata__", DType::F32, {1}}}, {}), Error);
  EXPECT_THROW(safetensors_header({{"a", DType::F32, {-1}}}, {}), Error);
  EXPECT_THROW(safetensors_header({{"a", DType::F64, {1ll << 61}}}, {}), Error);
  EXPECT_THROW(safetensors_header({{"a", DType::U8, {INT64_MAX}}, {"b", DType::U8, {INT64_MAX}}, {"c", DType::U8, {INT64_MAX}}}, {}),
               Error);
  EXPECT_THROW(safetensors_header({{"a\xff", DType::U8, {1}}}, {}), Error);
  EXPECT_THROW(safetensors_header({}, {{"k", "\xff"}}), Error);
  EXPECT_THROW(safetensors_header({}, {{"k", std::string(kSafetensorsHeaderLimit, 'x')}}), Error);
}

TEST(SafetensorsRefuses, TruncationAtEveryByte) {
  const std::string whole = file_of(kGood, kData8);
  for (std::size_t length = 0; length < whole.size(); ++length) EXPECT_NE(refusal(whole.substr(0, length)), "accepted") << length;
  EXPECT_EQ(refusal(whole), "accepted");
}

TEST(SafetensorsRefuses, FilesThatAreSomethingElse) {
  expect_refusal("", "x.safetensors: is empty");
  expect_refusal("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer");
  expect_refusal("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull");
  expect_refusal("<!DOCTYPE html><html><body>Sign in</body></html>", "web page");
  expect_refusal("<html><body>403</body></html>", "web page");
  expect_refusal("GGUF\3\0\0\0 and more", "is a GGUF file");
  expect_refusal("PK\x03\x04 and more bytes", "PyTorch");
  expect_refusal(
      "\x80\x02\x8a\x0al\xfc\x9c"
      "F\xf9 and more",
      "pickle");
  expect_refusal("{\"metadata\":{},\"weight_map\":{}}", "JSON text");
  expect_refusal("abc", "is cut short: 3 bytes");
}

TEST(SafetensorsRefuses, HeaderLengths) {
  expect_refusal(file_with_length(kSafetensorsHeaderLimit + 1, "{}"), "more than the 100000000 allowed");
  expect_refusal(file_with_length(UINT64_MAX, "{}"), "more than the 100000000 allowed");
  expect_refusal(file_with_length(UINT64_MAX - 7, "{}"), "more than the 100000000 allowed");
  expect_refusal(file_with_length(3, "{}"), "of which 2 are there");
  expect_refusal(file_with_length(kSafetensorsHeaderLimit, "{}"), "is cut short");
  expect_refusal(file_with_length(0, ""), "not valid JSON");
  expect_refusal(file_with_length(1, "{}"), "not valid JSON");
}

TEST(SafetensorsRefuses, HeadersThatAreNoJson) {
  expect_refusal(file_of("{", ""), "not valid JSON");
  expect_refusal(file_of("{} x", ""), "at byte 11: not valid JSON");  // offsets count from the start of the file
  expect_refusal(file_of("{\"\xff\":1}", ""), "not valid JSON");
  expect_refusal(file_of(std::string("{}\0", 3), ""), "zero byte");
  expect_refusal(file_of(std::string(1'000'000, '['), ""), "array");
  expect_refusal(file_of(one("\"F32\"", std::string(1'000'000, '['), "[0,8]"), kData8), "nested deeper");
}

TEST(SafetensorsRefuses, HeadersOfAnotherShape) {
  expect_refusal(file_of("[]", ""), "the header is an array");
  expect_refusal(file_of("7", ""), "the header is not an object");
  expect_refusal(file_of("{\"a\":7}", ""), "tensor 'a' is not described by an object");
  expect_refusal(file_of("{\"a\":null}", ""), "tensor 'a' is not described by an object");
  expect_refusal(file_of("{\"a\":[\"F32\",[2],[0,8]]}", kData8), "tensor 'a' is described by an array");
  expect_refusal(file_of("{\"a\":{}}", ""), "tensor 'a' has no dtype");
}

TEST(SafetensorsRefuses, MissingUnknownAndDoubleFields) {
  expect_refusal(file_of("{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", kData8), "has no dtype");
  expect_refusal(file_of("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", kData8), "has no shape");
  expect_refusal(file_of("{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", kData8), "has no data_offsets");
  expect_refusal(file_of("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"x\":1}}", kData8), "unknown field 'x'");
  expect_refusal(file_of("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", kData8),
                 "dtype appears twice");
  expect_refusal(file_of("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"shape\":[2],\"data_offsets\":[0,8]}}", kData8), "shape appears twice");
  expect_refusal(file_of("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"data_offsets\":[0,8]}}", kData8),
                 "data_offsets appears twice");
}

TEST(SafetensorsRefuses, DuplicateNames) {
  const std::string entry = "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}";
  expect_refusal(file_of("{" + entry + "," + entry + "}", kData8), "tensor 'a' appears twice");
  expect_refusal(file_of("{\"__metadata__\":{},\"__metadata__\":{}}", ""), "__metadata__ appears twice");
  expect_refusal(file_of("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", ""), "metadata key 'k' appears twice");
}

TEST(SafetensorsRefuses, BadDtypes) {
  for (const char* dtype : {"\"F33\"", "\"f32\"", "\"\"", "\"F4\"", "\"F6_E2M3\"", "\"F8_E8M0\"", "\"C64\""}) {
    expect_refusal(file_of(one(dtype, "[2]", "[0,8]"), kData8), "element type");
  }
  for (const char* dtype : {"7", "null", "true"}) expect_refusal(file_of(one(dtype, "[2]", "[0,8]"), kData8), "dtype has a wrong form");
  for (const char* dtype : {"[]", "{}"}) expect_refusal(file_of(one(dtype, "[2]", "[0,8]"), kData8), "dtype has a wrong form");
}

TEST(SafetensorsRefuses, BadShapes) {
  for (const char* shape : {"[-2]", "[2.0]", "[\"2\"]", "[null]", "[true]", "[1e1]", "[18446744073709551616]"}) {
    expect_refusal(file_of(one("\"F32\"", shape, "[0,8]"), kData8), "shape holds something other than a count");
  }
  for (const char* shape : {"2", "\"2\"", "null", "{}"})
    expect_refusal(file_of(one("\"F32\"", shape, "[0,8]"), kData8), "shape has a wrong form");
  expect_refusal(file_of(one("\"F32\"", "[[2]]", "[0,8]"), kData8), "nested deeper");
  expect_refusal(file_of(one("\"F32\"", "[9223372036854775808]", "[0,8]"), kData8), "a dimension of 9223372036854775808");
}

TEST(SafetensorsRefuses, ShapesThatOverflow) {
  // Products that wrap to 2, to 8 bytes, to zero, and to a negative number.
  expect_refusal(file_of(one("\"F32\"", "[4294967296,4294967296,2]", "[0,8]"), kData8), "too large");
  expect_refusal(file_of(one("\"F32\"", "[4611686018427387906]", "[0,8]"), kData8), "too large");
  expect_refusal(file_of(one("\"U8\"", "[4294967296,4294967296]", "[0,0]"), ""), "too large");
  expect_refusal(file_of(one("\"U8\"", "[9223372036854775807,3]", "[0,8]"), kData8), "too large");
  expect_refusal(file_of(one("\"U8\"", "[0,4611686018427387904,8]", "[0,0]"), ""), "too large");
}

TEST(SafetensorsRefuses, BadOffsets) {
  expect_refusal(file_of(one("\"F32\"", "[2]", "[0]"), kData8), "fewer than two");
  expect_refusal(file_of(one("\"F32\"", "[2]", "[]"), kData8), "fewer than two");
  expect_refusal(file_of(one("\"F32\"", "[2]", "[0,8,8]"), kData8), "more than two");
  expect_refusal(file_of(one("\"F32\"", "[2]", "[0,-8]"), kData8), "data_offsets holds something other than a count");
  expect_refusal(file_of(one("\"F32\"", "[2]", "[0,8.0]"), kData8), "data_offsets holds something other than a count");
  expect_refusal(file_of(one("\"F32\"", "[2]", "8"), kData8), "data_offsets has a wrong form");
  expect_refusal(file_of(one("\"F32\"", "[2]", "[8,0]"), kData8), "ends before it begins");
  expect_refusal(file_of(one("\"F32\"", "[2]", "[4,12]"), kData8 + "1234"), "leaves a hole before it, from 0");
  expect_refusal(file_of(one("\"F32\"", "[2]", "[18446744073709551615,18446744073709551615]"), kData8), "hole");
  expect_refusal(file_of(one("\"F32\"", "[2]", "[0,18446744073709551615]"), kData8), "make 8 bytes");
}

TEST(SafetensorsRefuses, SizesThatContradictTheShape) {
  expect_refusal(file_of(one("\"F32\"", "[2]", "[0,7]"), kData8),
                 "tensor 'a' at [0, 7) of the data has a shape and type that make 8 bytes");
  expect_refusal(file_of(one("\"F32\"", "[2]", "[0,0]"), ""), "make 8 bytes");
  expect_refusal(file_of(one("\"F32\"", "[0]", "[0,8]"), kData8), "make 0 bytes");
  expect_refusal(file_of(one("\"F16\"", "[2]", "[0,8]"), kData8), "make 4 bytes");
}

TEST(SafetensorsRefuses, OverlapsAndHoles) {
  const auto two = [](const std::string& first, const std::string& second) {
    return "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + first +
           "},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + second + "}}";
  };
  EXPECT_EQ(refusal(file_of(two("[4,8]", "[0,4]"), kData8)), "accepted");
  expect_refusal(file_of(two("[0,4]", "[3,7]"), kData8), "tensor 'b' at [3, 7) of the data overlaps");
  expect_refusal(file_of(two("[0,4]", "[0,4]"), "1234"), "overlaps");
  expect_refusal(file_of(two("[0,4]", "[5,9]"), kData8 + "1"), "tensor 'b' at [5, 9) of the data leaves a hole before it, from 4");
}

TEST(SafetensorsRefuses, DataOfAnotherLength) {
  expect_refusal(file_of(kGood, "1234567"), "is cut short: its header describes 8 bytes of tensors, the file holds 7");
  expect_refusal(file_of(kGood, kData8 + "1"), "1 bytes lie behind the last tensor");
  expect_refusal(file_of("{}", "PK\x03\x04"), "4 bytes lie behind");
}

TEST(SafetensorsRefuses, MetadataOtherThanTexts) {
  for (const char* value : {"1", "null", "true", "[]", "{}", "1.5"}) {
    expect_refusal(file_of(std::string("{\"__metadata__\":{\"k\":") + value + "}}", ""), "metadata values must be texts");
  }
  for (const char* value : {"1", "\"x\"", "true"})
    expect_refusal(file_of(std::string("{\"__metadata__\":") + value + "}", ""), "__metadata__ is not");
  expect_refusal(file_of("{\"__metadata__\":[]}", ""), "__metadata__ is described by an array");
}

TEST(SafetensorsRefuses, MessagesStayShortAndPrintable) {
  const std::string name(1'000'000, 'n');
  EXPECT_LT(refusal(file_of("{\"" + name + "\":7}", "")).size(), 300u);
  for (char c : refusal(file_of("{\"\\u001b[2J\\u00e9\":7}", ""))) EXPECT_GE(c, 0x20);
}

// Random single-byte damage must end in a refusal or in ranges that lie inside the file.
TEST(Safetensors, DamagedHeadersNeverReachOutside) {
  const std::string whole = file_of(
      R"({"__metadata__":{"k":"v"},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"F16","shape":[2,1],"data_offsets":[4,8]}})",
      kData8);
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (int flip = 1; flip < 256; ++flip) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ flip);
      try {
        const SafetensorsFile file = read(damaged);
        for (const auto& [name, entry] : file.entries) {
          ASSERT_LE(entry.begin, entry.end);
          ASSERT_LE(file.data_begin + entry.end, damaged.size());
          ASSERT_EQ(file.data(entry).size(), tensor_bytes(entry.dtype, entry.shape));
        }
      } catch (const FormatError&) {
      }
    }
  }
}

TEST(Safetensors, ManyTensorsTakeLinearTime) {
  const auto seconds = [](int count) {
    std::vector<SafetensorsLayout> layout;
    for (int i = 0; i < count; ++i) layout.push_back({"model.layers." + std::to_string(i) + ".weight", DType::U8, {1}});
    const std::string text = safetensors_header(layout, {}) + std::string(count, 'x');
    const Blob blob{std::string_view(text)};
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(read_safetensors(blob, "x").entries.size(), static_cast<std::size_t>(count));
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  seconds(1000);
  // A quadratic step would take minutes here.
  EXPECT_LT(seconds(200'000), 20);
}

}  // namespace
}  // namespace miq
