#include "miq/model/pretokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "linear_time.h"
#include "tests/reference/bpe_reference.h"
#include "tokenizer_files.h"

namespace miq {
namespace {

using Words = std::vector<std::string>;

Words scan(const SplitPattern& pattern, std::string_view text) {
  std::vector<std::string_view> words;
  pattern.scan(text, words);
  return Words(words.begin(), words.end());
}

TEST(SplitPatterns, AreFoundByTheirText) {
  EXPECT_EQ(find_split_pattern_by_regex(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)")->name, "gpt-2");
  EXPECT_EQ(find_split_pattern_by_regex("(a+)+"), nullptr);
  EXPECT_EQ(find_split_pattern_by_name("qwen2")->name, "qwen2");
}

TEST(SplitPatterns, Examples) {
  EXPECT_EQ(scan(*find_split_pattern_by_name("gpt-2"), "I'll  go 12 x"), (Words{"I", "'ll", " ", " go", " 12", " x"}));
  EXPECT_EQ(scan(*find_split_pattern_by_name("llama-3"), "I'LL\n\n 12345\tgo"), (Words{"I", "'LL", "\n\n", " ", "123", "45", "\tgo"}));
  EXPECT_EQ(scan(*find_split_pattern_by_name("qwen2"), "a 12..\n b"), (Words{"a", " ", "1", "2", "..\n", " b"}));
}

// The scanners against PCRE2 running the pattern's text.
TEST(SplitPatterns, ScannersDoWhatThePatternsSay) {
  std::mt19937_64 random(5);
  for (const SplitPattern& pattern : split_patterns()) {
    for (int i = 0; i < 4000; ++i) {
      const std::string text = test::random_text(random, 1 + random() % 30);
      ASSERT_EQ(scan(pattern, text), reference::matches(pattern.regex, text)) << pattern.name << ": " << text;
    }
  }
}

TEST(SplitPatterns, MillionsOfBytesTakeLinearTime) {
  for (const SplitPattern& pattern : split_patterns()) {
    for (const char* unit : {"a", " ", "\n", "1", "!", "'", "' ", "\r\n ", " \n", "a ", "\u0301", "'\u017F"}) {
      test::expect_about_linear(unit, [&](const std::string& text) {
        std::vector<std::string_view> words;
        pattern.scan(text, words);
        EXPECT_FALSE(words.empty());
      });
    }
  }
}

TEST(SplitDigits, OneByOneOrInRuns) {
  const auto split = [](std::string_view text, bool individual) {
    std::vector<std::string_view> words;
    split_digits(text, individual, words);
    return Words(words.begin(), words.end());
  };
  EXPECT_EQ(split("ab12½ 3", true), (Words{"ab", "1", "2", "½", " ", "3"}));
  EXPECT_EQ(split("ab12½ 3", false), (Words{"ab", "12½", " ", "3"}));
}

}  // namespace
}  // namespace miq
