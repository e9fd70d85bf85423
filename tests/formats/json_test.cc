#include "miq/formats/json.h"

#include <gtest/gtest.h>

#include <string>

#include "miq/base/error.h"

namespace miq {
namespace {

std::string refusal(const std::string& text, int max_depth = 64) {
  try {
    parse_json(text, "x.json", max_depth);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "accepted";
}

void expect_refusal(const std::string& text, const std::string& part, int max_depth = 64) {
  const std::string message = refusal(text, max_depth);
  EXPECT_NE(message.find(part), std::string::npos) << "for " << text.substr(0, 80) << "\ngot " << message;
  EXPECT_EQ(message.rfind("x.json: ", 0), 0u) << message;
}

TEST(Json, ReadsEveryKindOfValue) {
  const Json value = parse_json(" {\"a\": [1, -2, 3.5, true, null, \"\\u00e9\\n\", {}], \"b\": {\"c\": []}, \"\": 18446744073709551615} \n", "x.json");
  EXPECT_EQ(value.dump(), "{\"\":18446744073709551615,\"a\":[1,-2,3.5,true,null,\"\303\251\\n\",{}],\"b\":{\"c\":[]}}");
  EXPECT_TRUE(value["a"][0].is_number_unsigned());
  EXPECT_TRUE(value["a"][1].is_number_integer());
  EXPECT_TRUE(value[""].is_number_unsigned());
}

TEST(Json, ReadsScalarsAtTheTop) {
  EXPECT_EQ(parse_json("7", "x.json"), 7);
  EXPECT_EQ(parse_json("\"s\"", "x.json"), "s");
}

TEST(Json, KeepsArraysOfObjectsApart) {
  const Json value = parse_json("[{\"a\":[{\"b\":1},{\"b\":2}]},{\"a\":3}]", "x.json");
  EXPECT_EQ(value[0]["a"][1]["b"], 2);
  EXPECT_EQ(value[1]["a"], 3);
}

TEST(Json, SameKeyInDifferentObjectsIsFine) {
  EXPECT_EQ(parse_json("{\"a\":{\"a\":{\"a\":1}}}", "x.json")["a"]["a"]["a"], 1);
}

TEST(Json, RefusesADuplicateKeyAndNamesItsOffset) {
  expect_refusal("{\"a\":1,\"b\":2,\"a\":3}", "at byte 16: the key 'a' appears twice");
  expect_refusal("{\"a\":1,\"\\u0061\":3}", "appears twice");
  expect_refusal("{\"x\":{\"k\":[],\"k\":{}}}", "'k' appears twice");
}

TEST(Json, RefusesTrailingGarbage) {
  expect_refusal("{} x", "at byte 3: not valid JSON");
  expect_refusal("1 2", "not valid JSON");
  expect_refusal("{}{}", "not valid JSON");
  expect_refusal(std::string("{}\0", 3), "at byte 2: not valid JSON: a zero byte");
  expect_refusal(std::string("{}\0{}", 5), "a zero byte");
}

TEST(Json, RefusesCutTexts) {
  const std::string whole = "{\"a\":[1.5,true,\"x\\u00e9\"],\"b\":{\"c\":null}}";
  for (std::size_t length = 0; length < whole.size(); ++length) EXPECT_NE(refusal(whole.substr(0, length)), "accepted") << length;
  EXPECT_EQ(refusal(whole), "accepted");
}

TEST(Json, RefusesBadTokens) {
  for (const char* text : {"{a:1}", "{'a':1}", "[1,]", "{\"a\":1,}", "nul", "NaN", "Infinity", "01", "+1", "1.", ".5", "\"\t\"", "\"\\x\"", "\"\\ud800\"",
                           "// c\n1", "[1 2]", "\"\xff\"", "\"\xc0\x80\"", "{\"a\" 1}", "{1:2}", "]", "}"}) {
    expect_refusal(text, "not valid JSON");
  }
}

TEST(Json, RefusesNumbersBeyondADouble) { expect_refusal("[1e999]", "not valid JSON"); }

TEST(Json, BoundsDepth) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_EQ(refusal(nested(64)), "accepted");
  expect_refusal(nested(65), "at byte 65: arrays and objects nested deeper than 64");
  expect_refusal("{\"a\":{\"b\":1}}", "deeper than 1", 1);
  EXPECT_EQ(refusal("{\"a\":{\"b\":1}}", 2), "accepted");
}

TEST(Json, MillionsOfOpenBracketsAreRefusedAtOnce) {
  expect_refusal(std::string(10'000'000, '['), "deeper than 64");
  std::string objects;
  for (int i = 0; i < 1'000'000; ++i) objects += "{\"a\":";
  expect_refusal(objects, "deeper than 64");
}

TEST(Json, BoundsTheNumberOfValues) {
  EXPECT_EQ(parse_json("[1,{\"a\":2}]", "x.json", 64, 4).size(), 2u);
  EXPECT_THROW(parse_json("[1,{\"a\":2}]", "x.json", 64, 3), FormatError);
}

TEST(Json, LongBadTokensDoNotFillTheMessage) { EXPECT_LT(refusal("\"" + std::string(1'000'000, 'a')).size(), 400u); }

TEST(Json, MessagesHoldNoControlBytes) {
  for (char c : refusal("{\"\\u001b[31m\":1,\"\\u001b[31m\":2}")) EXPECT_GE(c, 0x20);
}

}  // namespace
}  // namespace miq
