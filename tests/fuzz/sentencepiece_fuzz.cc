// tokenizer.model. The first byte's bits say what tokenizer_config.json adds. An accepted model encodes any text with its own
// ids, which decode; so does the input itself, taken as a text.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "miq/base/error.h"
#include "miq/model/sentencepiece_tokenizer.h"

using namespace std::string_literals;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  static const char* kConfigs[] = {"", R"({"add_bos_token":false})", R"({"add_eos_token":true,"eos_token":"</s>"})", R"({"add_bos_token":true,"bos_token":"a"})"};
  try {
    const auto tokenizer = miq::read_sentencepiece({data + 1, size - 1}, kConfigs[data[0] % 4], "input");
    const std::string own(reinterpret_cast<const char*>(data), size);
    for (const std::string& text : {" a  ab \n\xE2\x96\x81 \xff\xC3 <s>\0z"s, own}) {
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
