// A tokenizer of one id a byte, and a tiny model for it.
#pragma once

#include "miq/evaluate/texts.h"
#include "tests/model/small_model.h"

namespace miq::test {

class ByteTokenizer : public Tokenizer {
 public:
  explicit ByteTokenizer(std::int32_t bos = -1) : bos_(bos) {}
  std::vector<std::int32_t> encode(std::string_view text, bool special) const override {
    std::vector<std::int32_t> ids;
    if (special && bos_ >= 0) ids.push_back(bos_);
    for (char c : text) ids.push_back(static_cast<unsigned char>(c) % 100);
    return ids;
  }
  std::string decode(std::span<const std::int32_t>) const override { return {}; }
  std::int64_t vocabulary() const override { return 101; }
  std::string kind() const override { return "bytes"; }

 private:
  std::int32_t bos_;
};

inline SmallModel toy_model(std::int32_t bos = -1, DType dtype = DType::F32) {
  SmallModel made = small_model(odd_config(), dtype);
  made.model.tokenizer = std::make_shared<ByteTokenizer>(bos);
  made.model.config.eos_id = 2;
  return made;
}

inline Text toy_text(std::size_t length, const std::string& name = "toy") {
  Text text;
  text.name = name;
  for (std::size_t i = 0; i < length; ++i) text.content += static_cast<char>('a' + (i * i + 3 * i) % 23);
  text.digest = text_digest(text.content);
  text.source_digest = text.digest;
  return text;
}

}  // namespace miq::test
