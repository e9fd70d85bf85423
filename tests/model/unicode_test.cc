#include "miq/model/unicode.h"

#include <gtest/gtest.h>

#include "linear_time.h"

namespace miq {
namespace {

TEST(Utf8, DecodesEveryCodePointItWrites) {
  for (char32_t c = 0; c <= 0x10FFFF; c += c < 0x3000 ? 1 : 61) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(text, c);
    const CodePoint point = decode_utf8(text, 0);
    ASSERT_TRUE(point.valid && point.value == c && point.length == text.size()) << static_cast<std::uint32_t>(c);
  }
}

// The maximal-subpart practice of Unicode 3.9 (table 3-11): as Python's and Rust's lossy decoding.
TEST(Utf8, BadPartsBecomeOneReplacementEach) {
  const auto fixed = [](std::string_view text) { return replace_invalid_utf8(text); };
  EXPECT_EQ(fixed("a\xF1\x80\x80\xE1\x80\xC2"
                  "b\x80"
                  "c\x80\xBF"
                  "d"),
            "a\uFFFD\uFFFD\uFFFDb\uFFFDc\uFFFD\uFFFDd");
  EXPECT_EQ(fixed("\xC0\x80"), "\uFFFD\uFFFD");                      // overlong
  EXPECT_EQ(fixed("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");            // surrogate
  EXPECT_EQ(fixed("\xF4\x90\x80\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD");  // above U+10FFFF
  EXPECT_EQ(fixed("\xF0\x9F\x98"), "\uFFFD");                        // cut short
  EXPECT_EQ(fixed("\xE2\x82 x"), "\uFFFD x");
  EXPECT_TRUE(is_valid_utf8("\uFFFF\U0010FFFF"));
  EXPECT_FALSE(is_valid_utf8("\xFF"));
}

TEST(UnicodeClass, FollowsTheProperties) {
  EXPECT_EQ(unicode_class('a'), kLetter | kWord);
  EXPECT_EQ(unicode_class(0x4E2D), kLetter | kWord);
  EXPECT_EQ(unicode_class('7'), kNumber | kWord);
  EXPECT_EQ(unicode_class(0xBD), kNumber);  // ½ is No: a number, no word character
  EXPECT_EQ(unicode_class(0x2167), kNumber | kWord);
  EXPECT_EQ(unicode_class(0x301), kWord);  // a combining mark is no letter
  EXPECT_EQ(unicode_class(0x85), kSpace);
  EXPECT_EQ(unicode_class(0x180E), 0);  // was a space until Unicode 6.3
  EXPECT_EQ(unicode_class(0x1F600), 0);
  EXPECT_EQ(unicode_class(0x10D4A), kLetter | kWord);  // new in Unicode 16
  EXPECT_EQ(unicode_class(0x110000), 0);
}

TEST(Normalize, ComposesAndDecomposes) {
  EXPECT_EQ(unicode_normalize("e\u0301", NormalForm::Nfc), "\u00E9");
  EXPECT_EQ(unicode_normalize("\u00E9", NormalForm::Nfd), "e\u0301");
  EXPECT_EQ(unicode_normalize("\u1E9B\u0323", NormalForm::Nfc), "\u1E9B\u0323");
  EXPECT_EQ(unicode_normalize("\u1E9B\u0323", NormalForm::Nfkc), "\u1E69");
  EXPECT_EQ(unicode_normalize("\u1E9B\u0323", NormalForm::Nfkd), "s\u0323\u0307");
  EXPECT_EQ(unicode_normalize("a\u0301\u0316", NormalForm::Nfc), "\u00E1\u0316");  // marks are put in order first
  EXPECT_EQ(unicode_normalize("\u1100\u1161\u11A8", NormalForm::Nfc), "\uAC01");   // Hangul
  EXPECT_EQ(unicode_normalize("\u212B\u2126\u0958", NormalForm::Nfc), "\u00C5\u03A9\u0915\u093C");
  EXPECT_EQ(unicode_normalize(std::string_view("a\0b", 3), NormalForm::Nfkc), std::string_view("a\0b", 3));
}

// utf8proc alone sorts marks by insertion: minutes for this text.
TEST(Normalize, ManyMarksInTheWrongOrderTakeNoTime) {
  std::string text = "a";
  for (int i = 0; i < 250'000; ++i) text += "\u0301";
  for (int i = 0; i < 250'000; ++i) text += "\u0316";
  std::string out;
  EXPECT_LT(test::processor_seconds([&] { out = unicode_normalize(text, NormalForm::Nfc); }), 5);
  EXPECT_EQ(out.substr(0, 4), "\u00E1\u0316");
}

}  // namespace
}  // namespace miq
