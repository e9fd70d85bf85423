// Whole texts of the shared data, against the originals' counts and ids: tokenizers 0.23.3 and sentencepiece
// 0.2.3. compare_tokenizers.py compares every id where the Python packages are there.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "linear_time.h"
#include "miq/model/tokenizer.h"

namespace miq {
namespace {

const std::string kData = MIQ_SOURCE_DIR "/../shared/data/";

std::string read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::shared_ptr<const Tokenizer> load(const std::string& path) {
  return load_tokenizer({{std::filesystem::path(path).filename(), Blob(std::string_view(read(path)))}}, path);
}

// The protocol of GPTQ: blank lines become empty rows, others keep their line end, rows joined by "\n\n".
std::string wikitext2() {
  const std::string raw = read(kData + "wikitext2/wiki.test.raw");
  std::string text;
  for (std::size_t at = 0; at < raw.size();) {
    const std::size_t end = raw.find('\n', at) + 1;
    const std::string line = raw.substr(at, end - at);
    if (at > 0) text += "\n\n";
    if (line.find_first_not_of(" \n") != std::string::npos) text += line;
    at = end;
  }
  return text;
}

std::uint64_t fingerprint(std::span<const std::int32_t> ids) {  // FNV-1a over the ids
  std::uint64_t hash = 14695981039346656037u;
  for (std::int32_t id : ids) hash = (hash ^ static_cast<std::uint32_t>(id)) * 1099511628211u;
  return hash;
}

struct Case {
  const char* file;
  std::size_t wikitext2, c4;
  std::uint64_t wikitext2_fingerprint, c4_fingerprint;
};

class TokenizerData : public testing::TestWithParam<Case> {};

TEST_P(TokenizerData, IdsOfWholeTextsAreTheOriginals) {
  if (!std::filesystem::exists(kData + GetParam().file)) GTEST_SKIP() << "needs " << kData << GetParam().file;
  const auto tokenizer = load(kData + GetParam().file);
  const std::string text = wikitext2();
  ASSERT_EQ(text.size(), 1'296'370u);
  std::vector<std::int32_t> ids;
  EXPECT_LT(test::processor_seconds([&] { ids = tokenizer->encode(text); }), 10);  // 0.1 to 0.2 s without sanitizers
  EXPECT_EQ(ids.size(), GetParam().wikitext2);
  EXPECT_EQ(fingerprint(ids), GetParam().wikitext2_fingerprint);
  const auto pages = tokenizer->encode(read(kData + "c4/c4.utf8"));
  EXPECT_EQ(pages.size(), GetParam().c4);
  EXPECT_EQ(fingerprint(pages), GetParam().c4_fingerprint);
}

INSTANTIATE_TEST_SUITE_P(
    Shared, TokenizerData,
    testing::Values(Case{"models/story/tokenizer.json", 560212, 544015, 10919949812094834956u, 10382075374224161906u},
                    Case{"models/opt-small/tokenizer.json", 402359, 398406, 7228891197612227307u, 17776105151147923977u},
                    Case{"tokenizers/llama2/tokenizer.model", 341469, 334245, 14364410949605411757u, 9831101310734928434u}),
    [](const auto& param) { return "kind" + std::to_string(param.index); });

}  // namespace
}  // namespace miq
