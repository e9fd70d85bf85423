// A tokenizer.json for tests that run the commands.
#pragma once

#include <string>

#include "miq/formats/json.h"

namespace miq::test {

// A byte-level BPE without merges: one id for each byte.
inline std::string byte_tokenizer(int extra_ids = 0) {
  Json vocabulary = Json::object();
  int next = 0, shifted = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const int code = printable ? byte : shifted++;
    std::string text;
    if (code < 0x80) {
      text = std::string(1, static_cast<char>(code));
    } else {
      text = {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
    }
    vocabulary[text] = next++;
  }
  for (int i = 0; i < extra_ids; ++i) vocabulary["extra" + std::to_string(i)] = next++;
  return Json{{"version", "1.0"},
              {"added_tokens", Json::array()},
              {"normalizer", nullptr},
              {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
              {"post_processor", nullptr},
              {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
              {"model", {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr}, {"continuing_subword_prefix", nullptr}, {"end_of_word_suffix", nullptr},
                         {"fuse_unk", false}, {"byte_fallback", false}, {"vocab", vocabulary}, {"merges", Json::array()}}}}
      .dump();
}

}  // namespace miq::test
