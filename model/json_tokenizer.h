// tokenizer.json of Hugging Face tokenizers, with a BPE model.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "miq/model/tokenizer.h"

namespace miq {

// `name` is used in messages. Throws FormatError. Normalisers: NFC, NFD, NFKC, NFKD, Prepend, Replace
// (of a string), Sequence. Pre-tokenizers: ByteLevel, Digits, Metaspace, Split by a known pattern
// (pretokenizer.h), Sequence. Post-processors: ByteLevel, TemplateProcessing, Sequence. Anything else is
// refused by name. "truncation" and "padding" are not applied: they are settings of a call.
std::shared_ptr<const Tokenizer> read_tokenizer_json(std::string_view text, const std::string& name);

}  // namespace miq
