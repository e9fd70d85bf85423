// The tokenizer inside a GGUF, kept in our files as "tokenizer.gguf.json".
//
// That file is one JSON object: every metadata entry of the GGUF whose key starts with "tokenizer." under
// its own key; numbers as JSON numbers, arrays as JSON arrays, in the GGUF's order. Keys that are read:
//   tokenizer.ggml.model            "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE with scores)
//   tokenizer.ggml.pre              for gpt2: gpt-2, smollm, llama-bpe, qwen2; others are refused by name
//   tokenizer.ggml.tokens           strings; the place is the id
//   tokenizer.ggml.token_type       1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
//   tokenizer.ggml.merges           for gpt2: "left right"
//   tokenizer.ggml.scores           for llama: one number per token
//   tokenizer.ggml.{bos,eos}_token_id, add_bos_token, add_eos_token, add_space_prefix,
//   remove_extra_whitespaces
// Facts: ggml docs/gguf.md and llama.cpp src/llama-vocab.cpp. Where llama.cpp leaves a step of the original
// tokenizer out (the NFC of Qwen2), ours follows the original.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "miq/formats/gguf.h"
#include "miq/model/tokenizer.h"

namespace miq {

inline constexpr std::string_view kGgufTokenizerFile = "tokenizer.gguf.json";

// Contents of tokenizer.gguf.json; empty when the metadata holds no "tokenizer.ggml.model". Throws
// FormatError naming `name` for strings that are no UTF-8 and numbers that are not finite.
std::string gguf_tokenizer_json(const std::map<std::string, GgufValue>& metadata, const std::string& name = "GGUF metadata");

// Throws FormatError naming `name`.
std::shared_ptr<const Tokenizer> read_gguf_tokenizer_json(std::string_view text, const std::string& name);

}  // namespace miq
