// Text <-> token ids, identical to the original tokenizers.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "miq/base/blob.h"

namespace miq {

// Immutable and thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // Ids of the whole text. `special` adds the ids that the original tokenizer puts in front (BOS) or
  // behind. Text that is no valid UTF-8 is read as the original reads it (U+FFFD for each bad part).
  // Special tokens spelled out in the text become their ids where the original does so (tokenizer.json,
  // byte-level GGUF); the SentencePiece library takes "<s>" or "<unk>" in a text for text, and so do we.
  virtual std::vector<std::int32_t> encode(std::string_view text, bool special = true) const = 0;
  // Text of the ids (bytes, possibly invalid UTF-8 at a cut); special tokens are left out.
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;
  // One more than the highest id.
  virtual std::int64_t vocabulary() const = 0;
  // "byte-level BPE (smollm)", "SentencePiece BPE", … for reports.
  virtual std::string kind() const = 0;
};

// Makes a tokenizer from a model's small files, whichever of these are there, first match wins:
//   tokenizer.json        Hugging Face tokenizers: BPE, byte-level or with byte fallback
//   tokenizer.model       SentencePiece; with tokenizer_config.json's add_bos_token / add_eos_token
//   tokenizer.gguf.json   the "tokenizer.*" metadata of a GGUF as one JSON object (gguf_tokenizer.h)
// Throws FormatError: unknown models, normalisers and pre-tokenizer patterns are refused by name.
// Returns nullptr when none of the files is present. `source` is used in messages.
std::shared_ptr<const Tokenizer> load_tokenizer(const std::map<std::string, Blob>& files, const std::string& source);

// Names of the files that load_tokenizer and the exporters care about, config.json included:
// loaders copy these from a model folder and containers keep them verbatim.
std::span<const std::string_view> model_file_names();

}  // namespace miq
