// Against Debian's SentencePiece library on well-formed models, and hostile protobufs, which never reach it.
#include "miq/model/sentencepiece_tokenizer.h"

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "linear_time.h"
#include "miq/base/error.h"
#include "tokenizer_files.h"

namespace miq {
namespace {

using Ids = std::vector<std::int32_t>;
using test::proto_bytes;
using test::proto_number;
using test::sentencepiece_proto;

std::shared_ptr<const Tokenizer> load_proto(const std::string& proto, const std::string& config = {}) {
  std::map<std::string, Blob> files = {{"tokenizer.model", Blob(std::string_view(proto))}};
  if (!config.empty()) files["tokenizer_config.json"] = Blob(std::string_view(config));
  return load_tokenizer(files, "folder");
}

std::string error_of(const std::string& proto, const std::string& config = {}) {
  try {
    load_proto(proto, config);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "";
}

#define EXPECT_ERROR(proto, part) EXPECT_NE(error_of(proto).find(part), std::string::npos) << error_of(proto)

SentencePieceModel base_model(bool bytes) {
  SentencePieceModel model;
  model.byte_fallback = bytes;
  model.pieces = {{"<unk>", 0, PieceType::Unknown}, {"<s>", 0, PieceType::Control}, {"</s>", 0, PieceType::Control}};
  constexpr char kDigits[] = "0123456789ABCDEF";
  for (int byte = 0; bytes && byte < 256; ++byte) {
    model.pieces.push_back({std::string("<0x") + kDigits[byte / 16] + kDigits[byte % 16] + ">", 0, PieceType::Byte});
  }
  return model;
}

// Pieces over a small alphabet, equal scores among them, some user-defined and some unused.
SentencePieceModel random_model(std::mt19937_64& random) {
  SentencePieceModel model = base_model(random() % 2 == 0);
  model.add_dummy_prefix = random() % 4 != 0;
  model.remove_extra_whitespaces = random() % 2 == 0;
  model.escape_whitespaces = random() % 4 != 0;
  model.whitespace_as_suffix = random() % 4 == 0;
  const bool unused = random() % 3 == 0;
  std::vector<std::string> tokens = {"▁", "a", "b", "é", "中"};
  std::vector<std::string> all = tokens;
  for (int i = 0; i < 40; ++i) {
    const std::string joined = all[random() % all.size()] + all[random() % all.size()];
    if (joined.size() <= 24 && std::find(all.begin(), all.end(), joined) == all.end()) all.push_back(joined);
  }
  for (const std::string& text : all) {
    Piece piece{text, -static_cast<float>(random() % 12), PieceType::Normal};
    if (text.size() > 4 && random() % 12 == 0) piece.type = PieceType::UserDefined;
    if (text.size() > 1 && unused && random() % 6 == 0) piece.type = PieceType::Unused;
    if (text == "é" && random() % 2 == 0) continue;  // a character that is only part of pieces
    model.pieces.push_back(piece);
  }
  model.pieces.push_back({"<u>", 0, PieceType::UserDefined});
  model.pieces.push_back({"<u><u>", 0, PieceType::UserDefined});
  model.pieces.push_back({"[PAD1]", 0, PieceType::Unused});
  return model;
}

TEST(SentencePiece, EqualsTheLibrary) {
  std::mt19937_64 random(23);
  const std::vector<std::string> pool = {"a",  "b",   "é", "中",  " ",     " ",      "  ",   "x",       "😀",
                                         "\n", "<u>", "▁", "<s>", "<unk>", "[PAD1]", "\xFF", "\xE2\x82"};
  for (int round = 0; round < 60; ++round) {
    const SentencePieceModel model = random_model(random);
    const std::string proto = sentencepiece_proto(model);
    // Elsewhere the library's versions differ in the white space that they take off when decoding.
    const bool plain = model.add_dummy_prefix && model.escape_whitespaces && !model.whitespace_as_suffix && !model.remove_extra_whitespaces;
    sentencepiece::SentencePieceProcessor library;
    ASSERT_TRUE(library.LoadFromSerializedProto(proto).ok()) << library.status().ToString();
    const auto ours = load_proto(proto);
    for (int i = 0; i < 60; ++i) {
      const std::string text = test::random_text(random, random() % 40, pool);
      std::vector<int> wanted;
      ASSERT_TRUE(library.Encode(text, &wanted).ok());
      ASSERT_EQ(ours->encode(text, false), Ids(wanted.begin(), wanted.end())) << round << ": " << text;
      std::string decoded;
      ASSERT_TRUE(library.Decode(wanted, &decoded).ok());
      if (plain && decoded.find("\uFFFD") == std::string::npos) {
        ASSERT_EQ(ours->decode(ours->encode(text, false)), decoded) << round << ": " << text;
      }
    }
  }
}

TEST(SentencePiece, IdsAroundTheTextFollowTheConfig) {
  SentencePieceModel model = base_model(true);
  model.pieces.push_back({"▁", -1});
  model.pieces.push_back({"a", -2});
  const std::string proto = sentencepiece_proto(model);
  const std::int32_t space = 259, a = 260;
  EXPECT_EQ(load_proto(proto)->encode("a"), (Ids{1, space, a}));
  EXPECT_EQ(load_proto(proto)->encode("a", false), (Ids{space, a}));
  EXPECT_EQ(load_proto(proto, R"({"add_bos_token": false, "add_eos_token": true})")->encode("a"), (Ids{space, a, 2}));
  EXPECT_EQ(load_proto(proto, R"({"bos_token": {"content": "</s>"}})")->encode("a"), (Ids{2, space, a}));
  EXPECT_NE(error_of(proto, R"({"add_bos_token": true, "bos_token": "<none>"})").find("<none>"), std::string::npos);
  EXPECT_NE(error_of(proto, "[]").find("tokenizer_config.json"), std::string::npos);
  EXPECT_EQ(load_proto(proto)->vocabulary(), 261);
  EXPECT_EQ(load_proto(proto)->kind(), "SentencePiece BPE");
}

TEST(SentencePiece, RefusesModelsItCannotRun) {
  const SentencePieceModel good = base_model(true);
  EXPECT_EQ(error_of(sentencepiece_proto(good)), "");
  EXPECT_ERROR(sentencepiece_proto(good, 1), "UNIGRAM");
  EXPECT_ERROR(sentencepiece_proto(good, 3), "WORD");
  EXPECT_ERROR(sentencepiece_proto(good, 2, "charsmap"), "precompiled_charsmap (rule 'nmt_nfkc')");
  EXPECT_ERROR("", "no pieces");
}

TEST(SentencePiece, RefusesBadPieces) {
  const auto with = [](Piece piece, bool bytes = true) {
    SentencePieceModel model = base_model(bytes);
    model.pieces.push_back(std::move(piece));
    return sentencepiece_proto(model);
  };
  EXPECT_ERROR(with({"", 0}), "is empty");
  EXPECT_ERROR(with({"a", std::nanf("")}), "not a number");
  EXPECT_ERROR(with({"<s>", 0, PieceType::Control}), "twice");
  EXPECT_ERROR(with({"<u>", 0, PieceType::Unknown}), "second unknown");
  EXPECT_ERROR(with({std::string(70'000, 'a'), 0}), "64 KiB");
  EXPECT_ERROR(with({std::string(2'000, 'a'), 0, PieceType::UserDefined}), "user-defined and longer");
  EXPECT_ERROR(with({"a", 0, static_cast<PieceType>(9)}), "unknown type 9");
  for (const char* bad : {"<0x-1>", "<0x0a>", "<0x100>", "<0x1>", "x"})
    EXPECT_ERROR(with({bad, 0, PieceType::Byte}), "not <0x00> to <0xFF>");
  EXPECT_ERROR(with({"<0x00>", 0, PieceType::Byte}, false), "does not fall back");
  SentencePieceModel model = base_model(true);
  model.pieces.pop_back();
  EXPECT_ERROR(sentencepiece_proto(model), "no piece <0xFF>");
  model = base_model(false);
  model.pieces.erase(model.pieces.begin());
  EXPECT_ERROR(sentencepiece_proto(model), "no unknown piece");
  EXPECT_EQ(error_of(with({std::string("\0x", 2), 0})), "");  // real models have such pieces
}

TEST(SentencePiece, RefusesBrokenProtobufs) {
  EXPECT_ERROR(std::string("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", 11), "bytes where");  // a length of 2^64 - 1
  EXPECT_ERROR(std::string("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", 12), "64 bits");  // more than 64 bits
  EXPECT_ERROR(std::string("\x0A\xFF\xFF", 3), "cut short");
  EXPECT_ERROR(std::string("\x0A\x03\x15\x00\x00\x00\x00\x00", 8), "a number is cut short");  // a score beyond the end of its piece
  EXPECT_ERROR(std::string("\x0B", 1), "wire type 3");  // a group
  EXPECT_ERROR(std::string("\x02\x00", 2), "number 0");
  EXPECT_ERROR(proto_number(1, 5), "wrong wire type");
  EXPECT_ERROR(proto_bytes(1, proto_number(2, 5)), "wrong wire type");
  EXPECT_EQ(error_of(proto_number(99, 5) + proto_bytes(98, "later") + sentencepiece_proto(base_model(true))), "");  // unknown fields
}

TEST(SentencePiece, DamageIsLoadedOrRefused) {
  SentencePieceModel model = base_model(false);
  for (const char* text : {"▁", "a", "▁a", "aa"}) model.pieces.push_back({text, -1});
  const std::string proto = sentencepiece_proto(model);
  std::mt19937_64 random(1);
  for (std::size_t cut = 0; cut < proto.size(); ++cut) error_of(proto.substr(0, cut));
  int refused = 0;
  for (int i = 0; i < 5000; ++i) {
    std::string damaged = proto;
    for (std::size_t n = 1 + random() % 3; n > 0; --n) damaged[random() % damaged.size()] = static_cast<char>(random());
    try {
      load_proto(damaged)->encode("a aa a");
    } catch (const FormatError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(SentencePiece, AdversarialTextsTakeLinearTime) {
  SentencePieceModel model = base_model(true);
  for (std::string run = "a"; run.size() <= 1024; run += run)
    model.pieces.push_back({run, static_cast<float>(-static_cast<int>(run.size()))});
  for (const char* text : {"▁", "▁▁", "b", "ab"}) model.pieces.push_back({text, -5});
  const auto tokenizer = load_proto(sentencepiece_proto(model));
  for (const char* unit : {"a", " ", "ab", "中", "\xFF"}) {
    test::expect_about_linear(unit, [&](const std::string& text) { EXPECT_FALSE(tokenizer->encode(text).empty()); });
  }
}

}  // namespace
}  // namespace miq
