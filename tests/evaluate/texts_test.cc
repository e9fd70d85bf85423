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

std::string write(const std::string& name, const std::string& bytes) {
  const std::string path = testing::TempDir() + name;
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

TEST(Texts, RowsOfJsonLinesAreJoinedAsTheProtocolJoins) {
  const std::string rows = "{\"text\": \"\"}\n{\"text\": \" = T = \\n\", \"id\": [1, 2]}\r\n\n{\"text\": \" x \\n\"}";
  const std::string path = write("miq_rows.jsonl", rows);
  EXPECT_EQ(load_text("wikitext2", path).content, "\n\n = T = \n\n\n x \n");
  EXPECT_EQ(load_text("novel", path).content, "\n\n = T = \n\n\n x \n");
  EXPECT_EQ(load_text("novel", path, RowJoin::SkippingBlank).content, " = T = \n\n\n x \n");
  EXPECT_EQ(load_text("novel", path, RowJoin::WholeFile).content, "\n = T = \n x ");
  EXPECT_EQ(load_text("novel", write("miq_rows.txt", rows)).content, rows);  // the ending says what it is
  EXPECT_EQ(load_text("ptb", write("miq_ptb.jsonl", "{\"sentence\": \"no it was\"}\n{\"sentence\": \"black monday\"}\n")).content,
            "no it was black monday");
}

TEST(Texts, BadJsonLinesAreNamedWithTheirLine) {
  for (const std::string row : {"{\"txt\": \"a\"}", "[1]", "{\"text\": 5}", "\"text\"", "{\"text\": \"a\"", "3"}) {
    const std::string path = write("miq_bad.jsonl", "{\"text\": \"fine\"}\n" + row + "\n");
    try {
      load_text("novel", path);
      FAIL() << row;
    } catch (const FormatError& error) {
      EXPECT_NE(std::string(error.what()).find("miq_bad.jsonl: line 2"), std::string::npos) << error.what();
    }
  }
}

TEST(Texts, PackedOnesAreFoundAndRecognised) {
  const std::string folder = testing::TempDir() + "miq_packed_texts/";
  fs::create_directories(folder);
  // gzip of "hello hello hello\n", as the program writes it.
  const unsigned char packed[] = {0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 0x57, 0xc8, 0x40, 0x90, 0x5c,
                                  0x00, 0x3b, 0x7c, 0x8a, 0xdf, 0x12, 0x00, 0x00, 0x00};
  std::ofstream(folder + "novel.txt.gz", std::ios::binary).write(reinterpret_cast<const char*>(packed), sizeof packed);
  const Text text = load_text("novel", find_text(folder, "novel"));
  EXPECT_EQ(text.content, "hello hello hello\n");
  EXPECT_EQ(text.source_digest, text_digest("hello hello hello\n"));
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
