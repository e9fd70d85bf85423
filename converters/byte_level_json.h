// tokenizer.json for byte-level BPE tokenizers that come in another form: vocab.json with merges.txt (GPT-2,
// OPT, Qwen2 folders), or a GGUF's metadata. What both tokenizers make of a text is the same.
#pragma once

#include <map>
#include <string>

#include "miq/base/blob.h"

namespace miq {

// From vocab.json, merges.txt and, where they are there, tokenizer_config.json, special_tokens_map.json and
// added_tokens.json among `files`. The pattern follows from tokenizer_class (GPT2Tokenizer, Qwen2Tokenizer;
// without one GPT-2's, as transformers has it for these files). Empty where one of the two files is missing.
// Throws FormatError naming `where` for another tokenizer class and for files that are not what they should be.
std::string tokenizer_json_from_bpe_files(const std::map<std::string, Blob>& files, const std::string& where);

// From tokenizer.gguf.json (model/gguf_tokenizer.h) of tokenizer.ggml.model "gpt2". Empty for the other
// models, whose merges would have to be worked out from scores. `text` is one that the tokenizer was read from.
std::string tokenizer_json_from_gguf(std::string_view text, const std::string& where);

}  // namespace miq
