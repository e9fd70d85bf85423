// tokenizer.json and the tokenizer of a GGUF. The first byte says what the input is: a merge patch of a small BPE ('S'), of a
// byte-level one ('B'), of one with byte fallback ('F'), of a GGUF's ('G', 'L'), or the file itself. Ids stay in the vocabulary.
// Byte-level vocabularies have letters and a space only: all 256 bytes take five times as long ('W' has them).
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "miq/base/error.h"
#include "miq/model/gguf_tokenizer.h"
#include "miq/model/json_tokenizer.h"
#include "tests/fuzz/patched.h"
#include "tests/model/tokenizer_files.h"

namespace {

using miq::Json;

Json small_bpe() {
  return Json::parse(R"({"added_tokens":[{"id":6,"content":"<s>","special":true,"normalized":false}],"normalizer":null,"pre_tokenizer":null,"decoder":null,
    "model":{"type":"BPE","unk_token":"?","vocab":{"a":0,"b":1,"ab":2,"?":3,"▁":4,"é":5},"merges":["a b"]}})");
}

bool is_common(int byte) { return byte == ' ' || (byte >= 'a' && byte <= 'l'); }

Json few_bytes() {
  Json json = miq::test::byte_level_json();
  for (int byte = 0; byte < 256; ++byte) {
    if (!is_common(byte)) json["model"]["vocab"].erase(miq::test::byte_character(byte));
  }
  return json;
}

Json gguf(bool llama) {
  Json json{{"tokenizer.ggml.model", llama ? "llama" : "gpt2"}, {"tokenizer.ggml.bos_token_id", 1}, {"tokenizer.ggml.eos_token_id", 2}};
  if (llama) {
    json["tokenizer.ggml.tokens"] = {"<unk>", "<s>", "</s>", "a", "b", "ab", "▁"};
    json["tokenizer.ggml.scores"] = {0, 0, 0, -1, -2, -3, -4};
    json["tokenizer.ggml.token_type"] = {2, 3, 3, 1, 1, 1, 1};
    return json;
  }
  json["tokenizer.ggml.pre"] = "smollm";
  Json& tokens = json["tokenizer.ggml.tokens"] = Json::array();
  for (int byte = 0; byte < 256; ++byte) {
    if (is_common(byte)) tokens.push_back(miq::test::byte_character(byte));
  }
  tokens.push_back("ab");
  json["tokenizer.ggml.token_type"] = std::vector<int>(tokens.size(), 1);
  json["tokenizer.ggml.merges"] = {"a b"};
  return json;
}

std::shared_ptr<const miq::Tokenizer> read(const std::string& input) {
  static const Json kSmall = small_bpe(), kWhole = miq::test::byte_level_json(), kBytes = few_bytes(), kFallback = miq::test::byte_fallback_json({"a", "b", "▁"}, {{"a", "b"}}),
                    kGguf = gguf(false), kLlama = gguf(true);
  const std::string rest = input.substr(1);
  switch (input[0]) {
    case 'S': return miq::read_tokenizer_json(miq::test::patched(kSmall, rest), "input");
    case 'W': return miq::read_tokenizer_json(miq::test::patched(kWhole, rest), "input");
    case 'B': return miq::read_tokenizer_json(miq::test::patched(kBytes, rest), "input");
    case 'F': return miq::read_tokenizer_json(miq::test::patched(kFallback, rest), "input");
    case 'G': return miq::read_gguf_tokenizer_json(miq::test::patched(kGguf, rest), "input");
    case 'L': return miq::read_gguf_tokenizer_json(miq::test::patched(kLlama, rest), "input");
    default: return miq::read_tokenizer_json(input, "input");
  }
}

}  // namespace

using namespace std::string_literals;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  // A base that is refused itself would hide everything behind its fault: this throws then.
  static const bool kBasesAreGood = [] {
    for (const char* kind : {"S{}", "W{}", "B{}", "F{}", "G{}", "L{}"}) read(kind);
    return true;
  }();
  if (!kBasesAreGood) std::abort();
  const std::string own(reinterpret_cast<const char*>(data), size);
  try {
    const auto tokenizer = read(own);
    for (const std::string& text : {" ab  aab's 12\n\xE2\x96\x81 \xff\xC3 e\xCC\x81<s>\0z"s, own}) {
      const std::vector<std::int32_t> ids = tokenizer->encode(text);
      for (const std::int32_t id : ids) {
        if (id < 0 || id >= tokenizer->vocabulary()) std::abort();
      }
      tokenizer->decode(ids);
    }
  } catch (const miq::FormatError&) {
  }
  return 0;
}
