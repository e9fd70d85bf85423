#include "miq/model/json_tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <thread>

#include "linear_time.h"
#include "miq/base/error.h"
#include "miq/model/pretokenizer.h"
#include "tokenizer_files.h"

namespace miq {
namespace {

using Ids = std::vector<std::int32_t>;
using test::byte_fallback_json;
using test::byte_level_json;
using test::load;

// The message of the FormatError that loading throws; empty when it loads.
std::string error_of(const Json& json) {
  try {
    load(json);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "";
}

#define EXPECT_ERROR(json, part) EXPECT_NE(error_of(json).find(part), std::string::npos) << error_of(json)

Json added(const std::string& content, std::int32_t id) {
  return {{"id", id}, {"content", content}, {"special", false}, {"normalized", false}};
}

TEST(ByteLevelTokenizer, MergesAndDecodes) {
  const auto tokenizer = load(byte_level_json());
  EXPECT_EQ(tokenizer->kind(), "byte-level BPE (gpt-2)");
  EXPECT_EQ(tokenizer->vocabulary(), 262);
  EXPECT_EQ(tokenizer->encode("hell hello"), (Ids{259, 258, 257, 'o'}));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("hell hello")), "hell hello");
  EXPECT_EQ(tokenizer->encode(""), Ids{});
}

TEST(ByteLevelTokenizer, DecodesWhatItEncodes) {
  const auto tokenizer = load(byte_level_json());
  std::mt19937_64 random(3);
  for (int i = 0; i < 500; ++i) {
    std::string text = test::random_text(random, random() % 40);
    for (std::size_t at; (at = text.find("<s>")) != std::string::npos;) text.erase(at, 3);  // left out when decoding
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  }
}

TEST(ByteLevelTokenizer, InvalidUtf8BecomesReplacementCharacters) {
  const auto tokenizer = load(byte_level_json());
  EXPECT_EQ(tokenizer->encode("a\xFF\xE2\x82z"), tokenizer->encode("a\uFFFD\uFFFDz"));
  EXPECT_EQ(tokenizer->encode("\xC3"), tokenizer->encode("\uFFFD"));
}

TEST(ByteLevelTokenizer, CutTokensDecodeToTheirBytes) {
  const auto tokenizer = load(byte_level_json());
  const Ids ids = tokenizer->encode("é");
  ASSERT_EQ(ids.size(), 2u);
  EXPECT_EQ(tokenizer->decode(std::span(ids).first(1)), "\xC3");
  EXPECT_EQ(tokenizer->decode(Ids{-1, 'a', 100000}), "a");
}

TEST(ByteLevelTokenizer, SpecialTokensInTheText) {
  const auto tokenizer = load(byte_level_json());
  EXPECT_EQ(tokenizer->encode("<s>h</s>"), (Ids{260, 'h', 261}));
  EXPECT_EQ(tokenizer->decode(Ids{260, 'h', 261}), "h");
  EXPECT_EQ(tokenizer->encode("<s"), (Ids{'<', 's'}));
}

TEST(ByteLevelTokenizer, PrefixSpaceAndNoPattern) {
  Json json = byte_level_json();
  json["pre_tokenizer"]["add_prefix_space"] = true;
  EXPECT_EQ(load(json)->encode("he"), (Ids{258}));
  EXPECT_EQ(load(json)->encode(" he"), (Ids{258}));
  json = byte_level_json({{"e", "Ġ"}});
  EXPECT_EQ(load(json)->encode("e f"), (Ids{'e', 0x20, 'f'}));
  json["pre_tokenizer"]["use_regex"] = false;
  EXPECT_EQ(load(json)->encode("e f"), (Ids{256, 'f'}));
}

TEST(ByteLevelTokenizer, DigitsAreSplitOffFirst) {
  Json json = byte_level_json({{"1", "2"}, {"Ġ", "1"}, {"Ġ", "Ġ"}});
  EXPECT_EQ(load(json)->encode("x  12"), (Ids{'x', ' ', ' ', 256}));
  json["pre_tokenizer"] = {{"type", "Sequence"},
                           {"pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, json["pre_tokenizer"]}}};
  EXPECT_EQ(load(json)->encode("x  12"), (Ids{'x', 258, '1', '2'}));
  EXPECT_EQ(load(json)->kind(), "byte-level BPE (smollm)");
  json["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = false;
  EXPECT_EQ(load(json)->encode("x  12"), (Ids{'x', 258, 256}));
}

TEST(ByteLevelTokenizer, KnownPatternsAndNfc) {
  Json json = byte_level_json({{"1", "2"}, {"12", "3"}, {"Ã", "©"}});
  json["pre_tokenizer"] = {{"type", "Sequence"},
                           {"pretokenizers",
                            {{{"type", "Split"},
                              {"pattern", {{"Regex", std::string(find_split_pattern_by_name("llama-3")->regex)}}},
                              {"behavior", "Isolated"},
                              {"invert", false}},
                             {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
  EXPECT_EQ(load(json)->encode("1234"), (Ids{257, '4'}));
  EXPECT_EQ(load(json)->kind(), "byte-level BPE (llama-3)");
  json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = std::string(find_split_pattern_by_name("qwen2")->regex);
  json["normalizer"] = {{"type", "NFC"}};
  EXPECT_EQ(load(json)->encode("12"), (Ids{'1', '2'}));
  EXPECT_EQ(load(json)->encode("e\u0301"), (Ids{258}));
}

TEST(AddedTokens, FlagsAreHonoured) {
  Json json = byte_level_json();
  Json token = added("<t>", 262);
  const auto ids = [&](const char* flag, const char* text) {
    Json changed = json, one = token;
    if (*flag) one[flag] = true;
    changed["added_tokens"].push_back(one);
    return load(changed)->encode(text);
  };
  EXPECT_EQ(ids("", "a <t> b"), (Ids{'a', ' ', 262, ' ', 'b'}));
  EXPECT_EQ(ids("lstrip", "a \t<t> b"), (Ids{'a', 262, ' ', 'b'}));
  EXPECT_EQ(ids("rstrip", "a <t> \n b"), (Ids{'a', ' ', 262, 'b'}));
  EXPECT_EQ(ids("single_word", "a<t> <t>"), (Ids{'a', '<', 't', '>', ' ', 262}));
  EXPECT_EQ(ids("single_word", "_<t>é"), (Ids{'_', '<', 't', '>', 0xC3, 0xA9}));
}

TEST(AddedTokens, LongestOfTheLeftmostWins) {
  Json json = byte_level_json();
  json["added_tokens"].push_back(added("<t", 262));
  json["added_tokens"].push_back(added("<t>", 263));
  json["added_tokens"].push_back(added("t>>", 264));
  EXPECT_EQ(load(json)->encode("<t>>"), (Ids{263, '>'}));
  EXPECT_EQ(load(json)->encode("<tt>>"), (Ids{262, 264}));
}

TEST(AddedTokens, NormalizedOnesAreLookedForInTheNormalisedText) {
  Json json = byte_level_json();
  json["normalizer"] = {{"type", "NFC"}};
  json["added_tokens"].push_back(added("e\u0301", 262));
  EXPECT_EQ(load(json)->encode("\u00E9"), (Ids{0xC3, 0xA9}));
  json["added_tokens"].back()["normalized"] = true;
  EXPECT_EQ(load(json)->encode("\u00E9"), (Ids{262}));
}

TEST(PostProcessor, TemplatePutsIdsAround) {
  Json json = byte_level_json();
  const Json special = {{"<s>", {{"id", "<s>"}, {"ids", {260}}, {"tokens", {"<s>"}}}},
                        {"</s>", {{"id", "</s>"}, {"ids", {261}}, {"tokens", {"</s>"}}}}};
  const Json single = {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
                       {{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
                       {{"SpecialToken", {{"id", "</s>"}, {"type_id", 0}}}}};
  const Json process = {{"type", "TemplateProcessing"}, {"single", single}, {"pair", Json::array()}, {"special_tokens", special}};
  json["post_processor"] = process;
  EXPECT_EQ(load(json)->encode("h"), (Ids{260, 'h', 261}));
  EXPECT_EQ(load(json)->encode("h", false), (Ids{'h'}));
  json["post_processor"] = {{"type", "Sequence"}, {"processors", {{{"type", "ByteLevel"}}, process}}};
  EXPECT_EQ(load(json)->encode(""), (Ids{260, 261}));
  json["post_processor"] = process;
  json["post_processor"]["special_tokens"]["<s>"]["ids"] = {5000};
  EXPECT_ERROR(json, "5000");
  json["post_processor"]["special_tokens"]["<s>"]["ids"] = {-1};
  EXPECT_ERROR(json, "not an integer");
  json["post_processor"]["special_tokens"].erase("<s>");
  EXPECT_ERROR(json, "has no '<s>'");
}

TEST(ByteFallbackTokenizer, PrependsReplacesAndFallsBack) {
  const auto tokenizer = load(byte_fallback_json({"▁", "a", "b", "é"}, {{"▁", "a"}, {"b", "▁"}}));
  EXPECT_EQ(tokenizer->kind(), "BPE with byte fallback");
  EXPECT_EQ(tokenizer->encode("ab ab"), (Ids{261, 259, 261, 259}));
  EXPECT_EQ(tokenizer->encode("a\n"), (Ids{261, 0x0A + 1}));
  EXPECT_EQ(tokenizer->encode("é中"), (Ids{257, 260, 0xE4 + 1, 0xB8 + 1, 0xAD + 1}));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(" ab 中\n")), " ab 中\n");
  EXPECT_EQ(tokenizer->encode("<unk>a"), (Ids{0, 261}));  // each stretch gets its own prefix
}

TEST(ByteFallbackTokenizer, CuttingLongTextChangesNothing) {
  std::mt19937_64 random(11);
  const std::vector<std::string> pool = {"a", "b", " ", "é", "中", "😀", "\n"};
  const auto tokenizer = load(byte_fallback_json({"▁", "a", "b", "é"}, {{"▁", "a"}, {"b", "▁"}, {"a", "b"}, {"ab", "▁"}, {"é", "é"}}));
  const auto whole = load([] {
    // A merge of a byte token keeps the text in one piece.
    Json json =
        byte_fallback_json({"▁", "a", "b", "é"}, {{"▁", "a"}, {"b", "▁"}, {"a", "b"}, {"ab", "▁"}, {"é", "é"}, {"<0x00>", "<0x00>"}});
    return json;
  }());
  for (int i = 0; i < 200; ++i) {
    const std::string text = test::random_text(random, 200, pool);
    ASSERT_EQ(tokenizer->encode(text), whole->encode(text)) << text;
  }
}

TEST(MetaspaceTokenizer, PrependSchemes) {
  Json json = byte_fallback_json({"▁", "a", "b"}, {{"▁", "a"}, {"a", "▁"}});
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "first"}, {"split", false}};
  EXPECT_EQ(load(json)->encode("a a<unk>a"), (Ids{260, 260, 0, 258}));
  json["pre_tokenizer"]["prepend_scheme"] = "always";
  EXPECT_EQ(load(json)->encode("a a<unk>a"), (Ids{260, 260, 0, 260}));
  json["pre_tokenizer"]["prepend_scheme"] = "never";
  EXPECT_EQ(load(json)->encode("a a"), (Ids{258, 260}));
  json["pre_tokenizer"]["prepend_scheme"] = "sometimes";
  EXPECT_ERROR(json, "sometimes");
}

TEST(TokenizerJson, RefusesWhatItDoesNotKnowByName) {
  const auto with = [](const char* key, Json value) {
    Json json = byte_level_json();
    json[key] = std::move(value);
    return json;
  };
  EXPECT_ERROR(with("normalizer", {{"type", "BertNormalizer"}}), "'BertNormalizer'");
  EXPECT_ERROR(with("normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "AAAA"}}), "'Precompiled'");
  EXPECT_ERROR(with("normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", "x+"}}}, {"content", ""}}), "x+");
  EXPECT_ERROR(with("pre_tokenizer", {{"type", "Whitespace"}}), "'Whitespace'");
  EXPECT_ERROR(with("pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "(a+)+"}}}, {"behavior", "Isolated"}}), "(a+)+");
  EXPECT_ERROR(with("pre_tokenizer", {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "Isolated"}}), "String");
  const Json known{{"Regex", std::string(find_split_pattern_by_name("llama-3")->regex)}};
  EXPECT_ERROR(with("pre_tokenizer", {{"type", "Split"}, {"pattern", known}, {"behavior", "Removed"}}), "only Isolated, not inverted");
  EXPECT_ERROR(with("pre_tokenizer", {{"type", "Split"}, {"pattern", known}, {"behavior", "Isolated"}, {"invert", true}}), "only Isolated, not inverted");
  EXPECT_ERROR(with("post_processor", {{"type", "RobertaProcessing"}}), "'RobertaProcessing'");
  EXPECT_ERROR(with("decoder", {{"type", "WordPiece"}}), "'WordPiece'");
  EXPECT_ERROR(with("model", {{"type", "Unigram"}, {"vocab", Json::array()}}), "'Unigram'");
  EXPECT_ERROR(with("pre_tokenizer", {{"type", 5}}), "not a string");
  EXPECT_ERROR(with("pre_tokenizer", "ByteLevel"), "not an object");
  EXPECT_ERROR(with("model", nullptr), "has no 'model'");
  const auto with_model = [](const char* key, Json value) {
    Json json = byte_level_json();
    json["model"][key] = std::move(value);
    return json;
  };
  EXPECT_ERROR(with_model("dropout", 0.1), "dropout");
  EXPECT_ERROR(with_model("continuing_subword_prefix", "##"), "continuing_subword_prefix");
  EXPECT_ERROR(with_model("end_of_word_suffix", "</w>"), "end_of_word_suffix");
  EXPECT_ERROR(with_model("merges", {"h"}), "number 0");
  EXPECT_ERROR(with_model("merges", {"h e l"}), "number 0");
  EXPECT_ERROR(with_model("merges", {"h missing"}), "missing");
  EXPECT_ERROR(with_model("merges", {{"h", "e", "l"}}), "number 0");
  EXPECT_ERROR(with_model("vocab", {{"a", 1.5}}), "'a'");
  EXPECT_ERROR(with_model("vocab", {{"a", -1}}), "'a'");
  EXPECT_ERROR(with_model("vocab", {{"a", 18446744073709551615ull}}), "'a'");
  EXPECT_ERROR(with_model("vocab", {{"a", 1}, {"b", 1}}), "two tokens");
  EXPECT_ERROR(with_model("unk_token", "<none>"), "<none>");
}

// What tests/hard/refusals.py found without a test: each by what only its message says.
TEST(TokenizerJson, RefusesPartsThatMakeNoSense) {
  const auto with = [](const char* part, const char* json) {
    Json tokenizer = byte_level_json();
    tokenizer[part] = Json::parse(json);
    return tokenizer;
  };
  EXPECT_ERROR(with("normalizer", R"({"type":"Sequence","normalizers":5})"), "'normalizers' that is not an array");
  EXPECT_ERROR(with("pre_tokenizer", R"({"type":"Metaspace","replacement":"ab"})"), "not one character");
  EXPECT_ERROR(with("pre_tokenizer", R"({"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},{"type":"Digits"}]})"), "comes after ByteLevel");
  EXPECT_ERROR(with("decoder", R"({"type":"Replace","pattern":{"Regex":"a"},"content":"b"})"), "only strings are supported");
  EXPECT_ERROR(with("post_processor", R"({"type":"TemplateProcessing","single":[],"special_tokens":{}})"), "has no place for the text");
  EXPECT_ERROR(with("post_processor", R"({"type":"TemplateProcessing","single":[{"Sequence":{"id":"B"}}],"special_tokens":{}})"), "not the one sequence A");
  EXPECT_ERROR(with("post_processor", R"({"type":"TemplateProcessing","single":[{"Sequence":{"id":"A"}},{"Sequence":{"id":"A"}}],"special_tokens":{}})"), "not the one sequence A");
}

TEST(TokenizerJson, RefusesAddedTokensThatClash) {
  const auto with = [](const std::string& content, std::int64_t id) {
    Json json = byte_level_json();
    json["added_tokens"].push_back({{"id", id}, {"content", content}, {"special", true}});
    return json;
  };
  EXPECT_EQ(error_of(with("<new>", 262)), "");
  EXPECT_ERROR(with("<new>", 260), "another token");
  EXPECT_ERROR(with("h", 262), "in the vocabulary");
  EXPECT_ERROR(with("<new>", -5), "not an integer from 0");
  EXPECT_ERROR(with("<new>", std::int64_t{1} << 40), "not an integer from 0");
  EXPECT_ERROR(with("", 262), "empty");
  // Tables by id are no longer than a file of this size may ask for.
  EXPECT_EQ(error_of(with("<new>", 60'000)), "");
  EXPECT_ERROR(with("<new>", 4'000'000), "far beyond the number of tokens");
  Json sparse = byte_level_json();
  sparse["model"]["vocab"]["hel"] = 4'000'000;
  EXPECT_ERROR(sparse, "far beyond the number of tokens");
  EXPECT_ERROR(with(std::string(5000, 'x'), 262), "longer than");
}

TEST(TokenizerJson, MessagesNameTheFileAndDamageIsRefused) {
  EXPECT_ERROR(Json::object(), "folder/tokenizer.json");
  std::string deep(100'000, '[');
  EXPECT_THROW(load_tokenizer({{"tokenizer.json", Blob(deep)}}, "folder"), FormatError);
  EXPECT_THROW(load_tokenizer({{"tokenizer.json", Blob(std::string_view(""))}}, "folder"), FormatError);
  const std::string text = byte_level_json().dump();
  for (std::size_t cut = 0; cut < text.size(); cut += 97) {
    EXPECT_THROW(load_tokenizer({{"tokenizer.json", Blob(std::string_view(text).substr(0, cut))}}, "folder"), FormatError) << cut;
  }
}

// One value at a time replaced by one of another kind: loads or is refused, and nothing else.
TEST(TokenizerJson, AnyValueOfAnotherKindIsLoadedOrRefused) {
  Json base = byte_fallback_json({"▁", "a"}, {{"▁", "a"}});
  base["post_processor"] = {{"type", "TemplateProcessing"},
                            {"single", {{{"SpecialToken", {{"id", "u"}}}}, {{"Sequence", {{"id", "A"}}}}}},
                            {"special_tokens", {{"u", {{"id", "u"}, {"ids", {0}}}}}}};
  const Json flat = base.flatten();
  const std::vector<Json> kinds = {nullptr, true, -1, 1e300, "x", "", Json::array(), Json::object(), Json::array({Json::object()})};
  int loaded = 0, refused = 0;
  for (const auto& [path, value] : flat.items()) {
    if (path.find("<0x") != std::string::npos) continue;
    for (const Json& kind : kinds) {
      Json changed = base;
      changed[Json::json_pointer(path)] = kind;
      error_of(changed).empty() ? ++loaded : ++refused;
    }
  }
  EXPECT_GT(loaded, 20);
  EXPECT_GT(refused, 100);
}

TEST(TokenizerJson, AdversarialTextsTakeLinearTime) {
  const auto bytes = load(byte_level_json({{"a", "a"}, {"aa", "aa"}, {"Ġ", "Ġ"}, {"ĠĠ", "ĠĠ"}}));
  const auto fallback = load(byte_fallback_json({"▁", "a", "b"}, {{"▁", "▁"}, {"a", "a"}, {"aa", "aa"}, {"a", "b"}, {"b", "a"}}));
  for (const char* unit : {"a", " ", "ab", "<s", "中", "\xFF", "a\u0301", "1"}) {
    test::expect_about_linear(unit, [&](const std::string& text) {
      EXPECT_FALSE(bytes->encode(text).empty());
      EXPECT_FALSE(fallback->encode(text).empty());
    });
  }
}

TEST(TokenizerJson, ReplacementsMayNotGrowWithoutBound) {
  Json json = byte_level_json();
  const Json grow = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(1000, 'a')}};
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", Json::array({grow, grow, grow, grow})}};
  EXPECT_THROW(load(json)->encode(std::string(1000, 'a')), Error);
  json["normalizer"] = nullptr;
  json["decoder"] = {{"type", "Sequence"}, {"decoders", Json::array({grow, grow, grow, grow})}};
  EXPECT_THROW(load(json)->decode(Ids(1000, 'a')), Error);
}

TEST(TokenizerJson, ThreadsMayShareATokenizer) {
  const auto tokenizer = load(byte_level_json());
  const Ids wanted = tokenizer->encode("hello hello 12 é");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) EXPECT_EQ(tokenizer->encode("hello hello 12 é"), wanted);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(LoadTokenizer, TakesTheFirstKindThereOrNone) {
  EXPECT_EQ(load_tokenizer({}, "folder"), nullptr);
  EXPECT_EQ(load_tokenizer({{"config.json", Blob(std::string_view("{}"))}}, "folder"), nullptr);
  const auto names = model_file_names();
  for (const char* name : {"config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "tokenizer.gguf.json"}) {
    EXPECT_NE(std::find(names.begin(), names.end(), name), names.end()) << name;
  }
}

}  // namespace
}  // namespace miq
