#include "miq/evaluate/texts.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "miq/base/error.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

const fs::path kData = fs::path(MIQ_SOURCE_DIR) / "../shared/data";

TEST(Texts, RowsOfWikitextKeepTheirNewlineAndBlankOnesAreEmpty) {
  EXPECT_EQ(prepare_text("wikitext2", " \n = Title = \n \n Text . \n"), "\n\n = Title = \n\n\n\n\n Text . \n");
  EXPECT_EQ(prepare_text("wikitext2", " a \r\n b "), " a \n\n\n b ");
}

TEST(Texts, SentencesOfPtbAreStrippedAndJoinedWithASpace) {
  EXPECT_EQ(prepare_text("ptb", " no it was n't \n black monday\n"), "no it was n't black monday");
  EXPECT_EQ(prepare_text("ptb", " a \n b\n", RowJoin::BlankLine), "a\n\nb");
}

TEST(Texts, PagesOfC4AreLinesAndOnlyTheFirstElevenHundredCount) {
  std::string raw, expected;
  for (int i = 0; i < 1200; ++i) {
    raw += "page " + std::to_string(i) + "\n";
    if (i < 1100) expected += (i > 0 ? " page " : "page ") + std::to_string(i);
  }
  EXPECT_EQ(prepare_text("c4", raw), expected);
  EXPECT_TRUE(prepare_text("c4", raw, RowJoin::BlankLine).ends_with("page 1198\n\npage 1199"));
}

TEST(Texts, AnyOtherNameIsReadWhole) {
  const std::string raw = " \n\xff\n\ntext\n\n";
  EXPECT_EQ(prepare_text("novel", raw), raw);
  EXPECT_EQ(prepare_text("novel", raw, RowJoin::WholeFile), raw.substr(0, raw.size() - 1));
  EXPECT_EQ(prepare_text("wikitext2", raw, RowJoin::WholeFile), raw.substr(0, raw.size() - 1));
}

TEST(Texts, BlankRowsAreSkippedWhereTheProtocolDoes) {
  EXPECT_EQ(prepare_text("wikitext2", " \n = T = \n \n x \n", RowJoin::SkippingBlank), " = T = \n\n\n x \n");
}

TEST(Texts, LinesEndAsInPython) {
  EXPECT_EQ(text_lines("a\nb\r\nc\rd"), (std::vector<std::string>{"a", "b", "c", "d"}));
  EXPECT_EQ(text_lines("a\n\n"), (std::vector<std::string>{"a", ""}));
  EXPECT_TRUE(text_lines("").empty());
}

TEST(Texts, AMissingTextSaysWhatWasLookedFor) {
  try {
    find_text(testing::TempDir() + "no_such_folder", "wikitext2");
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("wikitext2/wiki.test.raw"), std::string::npos) << error.what();
  }
}

TEST(Texts, EmptyFilesAreRefused) {
  const std::string path = testing::TempDir() + "miq_empty.txt";
  std::ofstream(path).flush();
  EXPECT_THROW(load_text("novel", path), Error);
}

TEST(Texts, SharedDataGivesTheKnownLengths) {
  if (!fs::exists(kData)) GTEST_SKIP() << "no shared data at " << kData;
  EXPECT_EQ(texts_found(kData.string()), (std::vector<std::string>{"wikitext2", "ptb", "c4"}));
  const Text wikitext = load_text("wikitext2", find_text(kData.string(), "wikitext2"));
  EXPECT_EQ(wikitext.content.size(), 1'296'370u);
  const Text ptb = load_text("ptb", find_text(kData.string(), "ptb"));
  // Every line of the file is " sentence \n"; stripped and joined, two bytes a line go, less the last join.
  EXPECT_EQ(ptb.content.size(), 449'945u - 2 * 3'761u - 1);
  const Text c4 = load_text("c4", find_text(kData.string(), "c4"));
  EXPECT_EQ(c4.window_limit, 256);
  EXPECT_NE(wikitext.digest, wikitext.source_digest);
  EXPECT_EQ(text_digest(wikitext.content), wikitext.digest);
}

}  // namespace
}  // namespace miq
