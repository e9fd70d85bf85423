// Windows against what they must be by hand, with a tokenizer of one id per byte; CPython's generator
// against numbers that `random` prints.
#include "miq/compress/calibration.h"

#include <gtest/gtest.h>

#include "miq/base/error.h"
#include "miq/compress/random.h"

namespace miq {
namespace {

// A byte is its own id; id 256 stands in front.
class ByteTokenizer : public Tokenizer {
 public:
  std::vector<std::int32_t> encode(std::string_view text, bool special) const override {
    std::vector<std::int32_t> ids;
    if (special) ids.push_back(256);
    for (char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string decode(std::span<const std::int32_t>) const override { return {}; }
  std::int64_t vocabulary() const override { return 257; }
  std::string kind() const override { return "bytes"; }
};

Calibration sample(std::string_view text, Documents documents, Sampling sampling, std::int64_t windows, std::int64_t seqlen,
                   std::uint64_t seed = 0) {
  Config config;
  config.max_positions = 16;
  return sample_windows(text, "text", ByteTokenizer{}, config, {documents, sampling, windows, seqlen, seed});
}

TEST(PythonRandom, DrawsWhatCPythonDraws) {
  // random.seed(0); [random.getrandbits(32) for _ in range(3)], then randint(0, 999) four times and
  // randint(0, 10**12); random.seed(2**40 + 7); randint(0, 999) four times.
  PythonRandom zero(0);
  EXPECT_EQ(zero.next(), 3626764237u);
  EXPECT_EQ(zero.next(), 1654615998u);
  EXPECT_EQ(zero.next(), 3255389356u);
  for (std::int64_t expected : {911, 430, 41, 265}) EXPECT_EQ(zero.below(1000), expected);
  EXPECT_EQ(zero.below(1000000000001), 562492388602);
  PythonRandom large((std::uint64_t{1} << 40) + 7);
  for (std::int64_t expected : {628, 765, 834, 960}) EXPECT_EQ(large.below(1000), expected);
}

TEST(Calibration, TakesTheFirstWindowsOfAWholeTextWithItsBos) {
  const Calibration c = sample("abcdefghijk", Documents::Whole, Sampling::InOrder, 2, 4);
  ASSERT_EQ(c.windows.size(), 2u);
  EXPECT_EQ(c.windows[0], (std::vector<std::int32_t>{256, 'a', 'b', 'c'}));
  EXPECT_EQ(c.windows[1], (std::vector<std::int32_t>{'d', 'e', 'f', 'g'}));
  EXPECT_EQ(sample("abcdefghijk", Documents::Whole, Sampling::InOrder, 100, 4).windows.size(), 3u) << "a short text gives what it has";
}

TEST(Calibration, TakesTheFirstLinesThatAreLongEnoughWithoutBos) {
  const Calibration c = sample("ab\nabcdX\nabc\nefgh\nijklm", Documents::Lines, Sampling::InOrder, 2, 4);
  ASSERT_EQ(c.windows.size(), 2u);
  EXPECT_EQ(c.windows[0], (std::vector<std::int32_t>{'a', 'b', 'c', 'd'}));
  EXPECT_EQ(c.windows[1], (std::vector<std::int32_t>{'e', 'f', 'g', 'h'}));
}

TEST(Calibration, DrawsFromLinesLongerThanAWindowOnly) {
  const Calibration c = sample("ab\nabcdef\nwxyz\n", Documents::Lines, Sampling::Random, 20, 4);
  ASSERT_EQ(c.windows.size(), 20u);
  for (const auto& window : c.windows) EXPECT_TRUE(window[0] == 'a' || window[0] == 'b');
}

TEST(Calibration, RandomDependsOnTheSeedAlone) {
  std::string text;
  for (int i = 0; i < 500; ++i) text += static_cast<char>('a' + i * i % 26);
  const Calibration a = sample(text, Documents::Whole, Sampling::Random, 5, 8, 1), b = sample(text, Documents::Whole, Sampling::Random, 5, 8, 1);
  EXPECT_EQ(a.windows, b.windows);
  EXPECT_EQ(a.description, b.description);
  EXPECT_NE(a.windows, sample(text, Documents::Whole, Sampling::Random, 5, 8, 2).windows);
}

TEST(Calibration, RefusesWhatMakesNoWindow) {
  EXPECT_THROW(sample("abc", Documents::Whole, Sampling::InOrder, 1, 8), Error);
  EXPECT_THROW(sample("abc", Documents::Whole, Sampling::Random, 1, 8), Error);
  EXPECT_THROW(sample("", Documents::Whole, Sampling::Random, 1, 8), Error);
  EXPECT_THROW(sample("abc\nde\n", Documents::Lines, Sampling::Random, 1, 8), Error);
  EXPECT_THROW(sample("abc\nde\n", Documents::Lines, Sampling::InOrder, 1, 8), Error);
  EXPECT_THROW(sample("", Documents::Lines, Sampling::Random, 1, 8), Error);
  EXPECT_THROW(sample("abcdefghijklmnopqrstuvwxyz", Documents::Whole, Sampling::InOrder, 1, 17), UsageError) << "longer than the model";
  EXPECT_THROW(sample("abcdefghijklmnopqrstuvwxyz", Documents::Whole, Sampling::InOrder, 0, 8), UsageError);
}

}  // namespace
}  // namespace miq
