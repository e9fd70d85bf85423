#include "miq/model/gguf_tokenizer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "miq/base/error.h"
#include "tokenizer_files.h"

namespace miq {
namespace {

using Ids = std::vector<std::int32_t>;
using Metadata = std::map<std::string, GgufValue>;

Metadata gpt2(const std::string& pre = "smollm") {
  Metadata data;
  std::vector<std::string> tokens, merges = {"h e", "Ġ Ġ", "1 2"};
  std::vector<std::int64_t> types(261, 1);
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(test::byte_character(byte));
  for (const char* token : {"he", "ĠĠ", "12", "<s>", "</s>"}) tokens.push_back(token);
  types[259] = types[260] = 3;
  data["general.architecture"] = std::string("llama");
  data["tokenizer.ggml.model"] = std::string("gpt2");
  data["tokenizer.ggml.pre"] = pre;
  data["tokenizer.ggml.tokens"] = tokens;
  data["tokenizer.ggml.token_type"] = types;
  data["tokenizer.ggml.merges"] = merges;
  data["tokenizer.ggml.bos_token_id"] = std::uint64_t{259};
  data["tokenizer.ggml.eos_token_id"] = std::uint64_t{260};
  return data;
}

Metadata llama() {
  Metadata data;
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<std::int64_t> types = {2, 3, 3};
  std::vector<double> scores = {0, 0, 0};
  constexpr char kDigits[] = "0123456789ABCDEF";
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(std::string("<0x") + kDigits[byte / 16] + kDigits[byte % 16] + ">");
    types.push_back(6);
    scores.push_back(0);
  }
  double score = -1;
  for (const char* token : {"▁", "a", "▁a", "aa"}) {
    tokens.push_back(token);
    types.push_back(1);
    scores.push_back(score--);
  }
  data["tokenizer.ggml.model"] = std::string("llama");
  data["tokenizer.ggml.tokens"] = tokens;
  data["tokenizer.ggml.token_type"] = types;
  data["tokenizer.ggml.scores"] = scores;
  return data;
}

std::shared_ptr<const Tokenizer> load(const Metadata& data) {
  return load_tokenizer({{std::string(kGgufTokenizerFile), Blob(std::string_view(gguf_tokenizer_json(data)))}}, "model.gguf");
}

std::string error_of(const Metadata& data) {
  try {
    load(data);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "";
}

#define EXPECT_ERROR(data, part) EXPECT_NE(error_of(data).find(part), std::string::npos) << error_of(data)

TEST(GgufTokenizer, JsonHoldsTheTokenizerKeysAlone) {
  Metadata data = gpt2();
  data["tokenizer.ggml.add_bos_token"] = true;
  data["tokenizer.ggml.flags"] = std::vector<bool>{true, false};
  data["tokenizer.ggml.scores"] = std::vector<double>{0.5, static_cast<double>(-1.1f)};
  const Json json = parse_json(gguf_tokenizer_json(data), "json");
  EXPECT_FALSE(json.contains("general.architecture"));
  EXPECT_EQ(json["tokenizer.ggml.tokens"].size(), 261u);
  EXPECT_EQ(json["tokenizer.ggml.add_bos_token"], true);
  EXPECT_EQ(json["tokenizer.ggml.flags"], Json::array({true, false}));
  EXPECT_EQ(json["tokenizer.ggml.scores"][1].get<float>(), -1.1f);
  EXPECT_EQ(json["tokenizer.ggml.bos_token_id"], 259);
  EXPECT_EQ(gguf_tokenizer_json({{"general.name", std::string("x")}}), "");
}

// Found by the fuzzer: the JSON library threw its own exception.
TEST(GgufTokenizer, RefusesAKeyThatIsNoText) {
  Metadata data = gpt2();
  data["tokenizer.ggml.to\x87""ens"] = std::int64_t{1};
  EXPECT_ERROR(data, "metadata key that is no UTF-8");
}

TEST(GgufTokenizer, ByteLevelByItsPreTokenizersName) {
  EXPECT_EQ(load(gpt2("smollm"))->encode("he  12<s>"), (Ids{256, 257, '1', '2', 259}));
  EXPECT_EQ(load(gpt2("gpt-2"))->encode("he 12"), (Ids{256, ' ', 258}));
  EXPECT_EQ(load(gpt2("qwen2"))->encode("12"), (Ids{'1', '2'}));
  EXPECT_EQ(load(gpt2("qwen2"))->encode("e\u0301"), load(gpt2("qwen2"))->encode("\u00E9"));
  EXPECT_EQ(load(gpt2("llama-bpe"))->encode("12"), (Ids{259, 258}));  // puts BOS in front unless told not to
  EXPECT_EQ(load(gpt2("smollm"))->kind(), "byte-level BPE (smollm)");
  EXPECT_EQ(load(gpt2())->decode(Ids{259, 256, ' ', 'x'}), "he x");
}

TEST(GgufTokenizer, EdgesFollowTheSwitches) {
  Metadata data = gpt2();
  data["tokenizer.ggml.add_bos_token"] = true;
  data["tokenizer.ggml.add_eos_token"] = true;
  EXPECT_EQ(load(data)->encode("x"), (Ids{259, 'x', 260}));
  EXPECT_EQ(load(data)->encode("x", false), (Ids{'x'}));
  data["tokenizer.ggml.bos_token_id"] = std::uint64_t{4000};
  EXPECT_ERROR(data, "bos_token_id");
}

TEST(GgufTokenizer, SentencePieceWithScores) {
  const auto tokenizer = load(llama());
  EXPECT_EQ(tokenizer->kind(), "SentencePiece BPE");
  EXPECT_EQ(tokenizer->encode("aa"), (Ids{1, 261, 260}));
  EXPECT_EQ(tokenizer->encode("a  \n"), (Ids{1, 261, 259, 259, 3 + 0x0A}));  // spaces stay
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a  é\n")), "a  é\n");
  Metadata data = llama();
  data["tokenizer.ggml.add_space_prefix"] = false;
  data["tokenizer.ggml.add_bos_token"] = false;
  EXPECT_EQ(load(data)->encode("aa"), (Ids{262}));
}

TEST(GgufTokenizer, RefusesWhatItDoesNotKnowByName) {
  EXPECT_ERROR(gpt2("deepseek-llm"), "'deepseek-llm'");
  EXPECT_ERROR(gpt2("default"), "'default'");
  Metadata data = gpt2();
  data.erase("tokenizer.ggml.pre");
  EXPECT_ERROR(data, "tokenizer.ggml.pre");
  data = gpt2();
  data["tokenizer.ggml.model"] = std::string("t5");
  EXPECT_ERROR(data, "'t5'");
  data["tokenizer.ggml.model"] = std::int64_t{5};
  EXPECT_ERROR(data, "tokenizer.ggml.model");
}

TEST(GgufTokenizer, RefusesBrokenTables) {
  const auto with = [](Metadata data, const std::string& key, GgufValue value) {
    data["tokenizer.ggml." + key] = std::move(value);
    return data;
  };
  EXPECT_ERROR(with(gpt2(), "token_type", std::vector<std::int64_t>{1}), "1 token types for 261");
  EXPECT_ERROR(with(gpt2(), "token_type", std::vector<std::int64_t>(261, 7)), "unknown type");
  EXPECT_ERROR(with(gpt2(), "merges", std::vector<std::string>{"he"}), "number 0");
  EXPECT_ERROR(with(gpt2(), "merges", std::vector<std::string>{"x missing"}), "missing");
  EXPECT_ERROR(with(gpt2(), "merges", std::string("h e")), "no array");
  EXPECT_ERROR(with(gpt2(), "tokens", std::vector<std::string>{"a", "a"}), "2");
  EXPECT_ERROR(with(gpt2(), "tokens", std::vector<std::string>{"\xFF"}), "no UTF-8");
  Metadata twice = with(gpt2(), "tokens", std::vector<std::string>{"a", "a"});
  twice.erase("tokenizer.ggml.token_type");
  EXPECT_ERROR(twice, "the token 'a' twice, the second time as number 1");
  EXPECT_ERROR(with(gpt2(), "tokens", std::vector<std::int64_t>(261, 5)), "a token (number 0) that is not a string");
  EXPECT_ERROR(with(gpt2(), "add_bos_token", std::int64_t{1}), "add_bos_token that is not true or false");
  EXPECT_ERROR(with(gpt2(), "add_space_prefix", true), "asks for a space before the text");
  EXPECT_ERROR(with(llama(), "scores", std::vector<std::string>(263, "0")), "a score (number 0) that is not a number");
  EXPECT_ERROR(with(llama(), "precompiled_charsmap", std::vector<std::int64_t>{1}), "precompiled_charsmap");
  try {
    load_tokenizer({{std::string(kGgufTokenizerFile), Blob(std::string_view("[1]"))}}, "model.gguf");
    ADD_FAILURE() << "a list was accepted";
  } catch (const FormatError& error) {
    EXPECT_NE(std::string(error.what()).find("is not an object"), std::string::npos) << error.what();
  }
  EXPECT_ERROR(with(llama(), "scores", std::vector<double>{1}), "1 scores");
  EXPECT_ERROR(with(llama(), "scores", std::vector<double>(263, std::nan(""))), "not finite");
  EXPECT_ERROR(with(llama(), "token_type", std::vector<std::int64_t>(263, 1)), "unknown");
  EXPECT_ERROR(with(llama(), "bos_token_id", std::int64_t{-1}), "bos_token_id");
}

}  // namespace
}  // namespace miq
