// Tokenizers in other forms against the tokenizer.json of the same tokenizer.
#include "miq/converters/byte_level_json.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "miq/base/error.h"
#include "miq/formats/json.h"
#include "miq/formats/mapped_file.h"
#include "miq/model/tokenizer.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

std::map<std::string, Blob> sample() {
  return {{"vocab.json", Blob(std::string_view(R"({"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġa": 4, "Ġab": 5, "<e>": 6, "1": 7, "2": 8, "12": 9})"))},
          {"merges.txt", Blob(std::string_view("#version: 0.2\na b\nĠ a\nĠ ab\n1 2\n"))},
          {"tokenizer_config.json", Blob(std::string_view(R"({"bos_token": "<e>", "add_bos_token": true})"))}};
}

std::shared_ptr<const Tokenizer> made_of(const std::map<std::string, Blob>& files) {
  return load_tokenizer({{"tokenizer.json", Blob(std::string_view(tokenizer_json_from_bpe_files(files, "here")))}}, "here");
}

using Ids = std::vector<std::int32_t>;

TEST(BpeFiles, ByTheirTables) {
  auto files = sample();
  EXPECT_EQ(made_of(files)->encode("ab ab12"), (Ids{6, 2, 5, 9}));
  EXPECT_EQ(made_of(files)->encode("a<e>b", false), (Ids{0, 6, 1}));  // a special token spelled out
  files["tokenizer_config.json"] = Blob(std::string_view(R"({"tokenizer_class": "Qwen2Tokenizer", "bos_token": null})"));
  EXPECT_EQ(made_of(files)->encode("12"), (Ids{7, 8}));  // Qwen2 takes digits one by one
  files["tokenizer_config.json"] = Blob(std::string_view(R"({"added_tokens_decoder": {"12": {"content": "<x>", "special": true}}})"));
  EXPECT_EQ(made_of(files)->encode("a<x>"), (Ids{0, 12}));
}

TEST(BpeFiles, WhatIsRefused) {
  auto files = sample();
  files.erase("merges.txt");
  EXPECT_EQ(tokenizer_json_from_bpe_files(files, "here"), "");
  files = sample();
  files["merges.txt"] = Blob(std::string_view("a b\na b c\n"));
  EXPECT_THROW(tokenizer_json_from_bpe_files(files, "here"), FormatError);
  files = sample();
  files["tokenizer_config.json"] = Blob(std::string_view(R"({"tokenizer_class": "CTRLTokenizer"})"));
  EXPECT_THROW(tokenizer_json_from_bpe_files(files, "here"), FormatError);
  files["tokenizer_config.json"] = Blob(std::string_view("[1]"));
  EXPECT_THROW(tokenizer_json_from_bpe_files(files, "here"), FormatError);
  files["tokenizer_config.json"] = Blob(std::string_view(R"({"add_bos_token": true, "bos_token": "<absent>"})"));
  EXPECT_THROW(tokenizer_json_from_bpe_files(files, "here"), FormatError);
}

TEST(BpeFiles, TheOptOfTheDataGivesTheSameIds) {
  const fs::path data = fs::path(MIQ_SOURCE_DIR "/../shared/data");
  const fs::path folder = data / "models/opt-small";
  if (!fs::exists(folder / "vocab.json") || !fs::exists(data / "wiki/wiki.utf8")) GTEST_SKIP() << "no shared data";
  std::map<std::string, Blob> files;
  for (const char* name : {"vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"}) files[name] = Blob(read_text_file((folder / name).string()));
  const auto expected = load_tokenizer({{"tokenizer.json", map_file((folder / "tokenizer.json").string())}}, "opt");
  const std::string text = read_text_file((data / "wiki/wiki.utf8").string()).substr(0, 200000) + " </s> <pad>x";
  EXPECT_EQ(made_of(files)->encode(text), expected->encode(text));
}

TEST(GgufTokenizer, AsTokenizerJson) {
  for (const std::string pre : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    const Json gguf{{"tokenizer.ggml.model", "gpt2"},
                    {"tokenizer.ggml.pre", pre},
                    {"tokenizer.ggml.tokens", {"a", "b", "ab", "Ġ", "Ġa", "Ġab", "<e>", "1", "2", "12", "<u>", "'", "Ċ"}},
                    {"tokenizer.ggml.token_type", {1, 1, 1, 1, 1, 1, 3, 1, 1, 1, 4, 1, 1}},
                    {"tokenizer.ggml.merges", {"a b", "Ġ a", "Ġ ab", "1 2"}},
                    {"tokenizer.ggml.bos_token_id", 6}};
    const std::string text = gguf.dump(), made = tokenizer_json_from_gguf(text, "t");
    ASSERT_FALSE(made.empty());
    const auto expected = load_tokenizer({{"tokenizer.gguf.json", Blob(std::string_view(text))}}, "t");
    const auto found = load_tokenizer({{"tokenizer.json", Blob(std::string_view(made))}}, "t");
    for (const std::string sample : {"ab ab  12a<e>b\n\n ab", "12 12<u>ab'ab", "", "   a"}) {
      EXPECT_EQ(found->encode(sample), expected->encode(sample)) << pre << ": " << sample;
      EXPECT_EQ(found->decode(found->encode(sample)), expected->decode(expected->encode(sample)));
    }
    EXPECT_EQ(found->kind(), expected->kind());
  }
  EXPECT_EQ(tokenizer_json_from_gguf(R"({"tokenizer.ggml.model": "llama"})", "t"), "");
}

}  // namespace
}  // namespace miq
