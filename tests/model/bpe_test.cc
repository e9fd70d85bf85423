#include "miq/model/bpe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "linear_time.h"
#include "miq/base/error.h"
#include "tests/reference/bpe_reference.h"

namespace miq {
namespace {

using Merges = std::vector<std::pair<std::string, std::string>>;

// Random merges over a small alphabet: each joins two tokens that exist.
Merges random_merges(std::mt19937_64& random, std::vector<std::string>& tokens, std::size_t count) {
  Merges merges;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string left = tokens[random() % tokens.size()], right = tokens[random() % tokens.size()];
    if (left.size() + right.size() > 12) continue;
    // Another way to the same token is left out: there the original takes the first popped, whatever its rank.
    if (std::find(tokens.begin(), tokens.end(), left + right) != tokens.end()) continue;
    merges.emplace_back(left, right);
    tokens.push_back(left + right);
  }
  return merges;
}

Vocabulary numbered(const std::vector<std::string>& tokens) {
  Vocabulary vocabulary;
  for (std::size_t i = 0; i < tokens.size(); ++i) vocabulary[tokens[i]] = static_cast<std::int32_t>(i);
  return vocabulary;
}

TEST(Bpe, EqualsTheNaiveLoop) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 40; ++round) {
    std::vector<std::string> tokens = {"a", "b", "c", "é", "▁"};
    const std::vector<std::string> letters = tokens;
    const Merges merges = random_merges(random, tokens, 5 + random() % 60);
    const Bpe bpe(numbered(tokens), merges, {}, "test");
    for (int i = 0; i < 60; ++i) {
      std::string word;
      std::vector<std::string> symbols;
      for (std::size_t n = 1 + random() % 40; n > 0; --n) {
        symbols.push_back(letters[random() % letters.size()]);
        word += symbols.back();
      }
      std::vector<std::int32_t> ids, wanted, pieced;
      bpe.encode(word, ids);
      for (const std::string& token : reference::bpe(symbols, merges)) wanted.push_back(*bpe.find(token));
      ASSERT_EQ(ids, wanted) << word;
      std::vector<std::string_view> pieces;
      bpe.cut(word, pieces);
      for (std::string_view piece : pieces) bpe.encode(piece, pieced);
      ASSERT_EQ(pieced, wanted) << word;
    }
  }
}

TEST(Bpe, UnknownCharactersFuseFallBackOrVanish) {
  const auto options_of = [](const char* unknown, bool fuse, bool bytes) {
    BpeOptions options;
    options.unknown = unknown;
    options.fuse_unknown = fuse;
    options.byte_fallback = bytes;
    return options;
  };
  const auto ids = [](BpeOptions options, std::string_view word, Vocabulary vocabulary = {{"a", 0}, {"?", 1}, {"b", 2}}) {
    std::vector<std::int32_t> out;
    Bpe(std::move(vocabulary), {}, std::move(options), "test").encode(word, out);
    return out;
  };
  using Ids = std::vector<std::int32_t>;
  EXPECT_EQ(ids({}, "axyb"), (Ids{0, 2}));
  EXPECT_EQ(ids(options_of("?", false, false), "axyb"), (Ids{0, 1, 1, 2}));
  EXPECT_EQ(ids(options_of("?", true, false), "axyb"), (Ids{0, 1, 2}));
  const Vocabulary with_bytes = {{"a", 0}, {"?", 1}, {"b", 2}, {"<0xC3>", 3}, {"<0xA9>", 4}};
  EXPECT_EQ(ids(options_of("?", true, true), "aéb", with_bytes), (Ids{0, 3, 4, 2}));
  // The original's order: an unknown token waits until a known character or the end comes.
  EXPECT_EQ(ids(options_of("?", true, true), "xéb", with_bytes), (Ids{3, 4, 1, 2}));
}

TEST(Bpe, IgnoreMergesTakesWholeWords) {
  const Vocabulary vocabulary = {{"a", 0}, {"b", 1}, {"ab", 2}, {"aba", 3}};
  std::vector<std::int32_t> with, without;
  BpeOptions ignore;
  ignore.ignore_merges = true;
  Bpe(vocabulary, {{"a", "b"}}, ignore, "test").encode("aba", with);
  Bpe(vocabulary, {{"a", "b"}}, {}, "test").encode("aba", without);
  EXPECT_EQ(with, (std::vector<std::int32_t>{3}));
  EXPECT_EQ(without, (std::vector<std::int32_t>{2, 0}));
}

TEST(Bpe, OneLongWordTakesAboutLinearTime) {
  std::vector<std::string> tokens = {"a", "b"};
  Merges merges;
  for (std::string run = "a"; run.size() < 1024; run += run) {
    merges.emplace_back(run, run);
    tokens.push_back(run + run);
  }
  merges.emplace_back("a", "b");
  tokens.push_back("ab");
  const Bpe bpe(numbered(tokens), merges, {}, "test");
  for (const char* unit : {"a", "ab", "aab"}) {
    test::expect_about_linear(unit, [&](const std::string& word) {
      std::vector<std::int32_t> ids;
      bpe.encode(word, ids);
      EXPECT_FALSE(ids.empty());
    });
  }
}

TEST(Bpe, RefusesBadTables) {
  const auto error = [](Vocabulary vocabulary, const Merges& merges, BpeOptions options = {}) -> std::string {
    try {
      Bpe(std::move(vocabulary), merges, std::move(options), "t.json");
    } catch (const FormatError& e) {
      return e.what();
    }
    return "";
  };
  BpeOptions unknown;
  unknown.unknown = "?";
  EXPECT_NE(error({{"a", -1}}, {}).find("out of range"), std::string::npos);
  EXPECT_NE(error({{"a", 1 << 30}}, {}).find("out of range"), std::string::npos);
  EXPECT_NE(error({{"a", 0}, {"b", 0}}, {}).find("two tokens"), std::string::npos);
  EXPECT_NE(error({{"a", 0}}, {{"a", "b"}}).find("names the token 'b'"), std::string::npos);
  EXPECT_NE(error({{"a", 0}, {"b", 1}}, {{"a", "b"}}).find("names the token 'ab'"), std::string::npos);
  EXPECT_NE(error({{"a", 0}}, {}, unknown).find("unknown token '?'"), std::string::npos);
  EXPECT_EQ(error({{"a", 0}, {"b", 1}, {"ab", 2}}, {{"a", "b"}}), "");
}

TEST(ByteToken, OneSpellingOnly) {
  EXPECT_EQ(byte_token(0x0A), "<0x0A>");
  EXPECT_EQ(parse_byte_token("<0xFF>"), 0xFF);
  for (const char* bad : {"<0x-1>", "<0x+1>", "<0x1>", "<0x0a>", "<0x0A", "<0xGG>", "<0x0A>>", "0x0A", "<0x 1>"}) {
    EXPECT_FALSE(parse_byte_token(bad)) << bad;
  }
}

}  // namespace
}  // namespace miq
