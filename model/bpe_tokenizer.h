// The pipeline of a Hugging Face tokenizer with a BPE model: added tokens, normalisers, pre-tokenizers,
// merges, post-processor, decoder. json_tokenizer.cc and gguf_tokenizer.cc fill in the parts.
#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "miq/model/added_tokens.h"
#include "miq/model/bpe.h"
#include "miq/model/pretokenizer.h"
#include "miq/model/tokenizer.h"
#include "miq/model/unicode.h"

namespace miq {

// Normalisers, applied in order to each stretch of text between (non-normalised) added tokens.
struct PrependText {
  std::string text;  // before any stretch that is not empty
};
struct ReplaceText {
  std::string from, to;  // every occurrence; `from` is not empty
};
using Normalizer = std::variant<NormalForm, PrependText, ReplaceText>;

// Pre-tokenizers, applied in order to each word that the one before made.
struct SplitDigits {
  bool individual = false;
};
struct SplitByPattern {
  const SplitPattern* pattern = nullptr;
};
struct ByteLevel {  // maps bytes to printable characters; must come last
  bool prefix_space = false;
  bool use_pattern = true;  // cut by the GPT-2 pattern first
};
struct Metaspace {
  enum class Prepend { Always, First, Never } prepend = Prepend::Always;
  std::string replacement;  // of the space; also what is prepended
  bool split = true;        // cut before every replacement
};
using PreTokenizer = std::variant<SplitDigits, SplitByPattern, ByteLevel, Metaspace>;

// Decoders, applied in order to the list of tokens.
struct DecodeByteLevel {};
struct DecodeReplace {
  std::string from, to;
};
struct DecodeByteFallback {};  // <0xHH> to its byte
struct DecodeFuse {};          // all tokens into one
struct DecodeStrip {
  std::string text;
  std::int64_t start = 0, stop = 0;  // at most so many copies off either end of each token
};
struct DecodeMetaspace {
  std::string replacement;
  bool strip_first = true;  // the first token loses the space that was prepended
};
struct DecodeJoin {};  // no decoder: tokens joined by a space
using Decoder = std::variant<DecodeByteLevel, DecodeReplace, DecodeByteFallback, DecodeFuse, DecodeStrip, DecodeMetaspace, DecodeJoin>;

struct BpeTokenizerParts {
  std::string kind;  // Tokenizer::kind()
  std::shared_ptr<const Bpe> bpe;
  std::vector<AddedToken> added;  // ids agree with the vocabulary or extend it
  std::vector<Normalizer> normalizers;
  std::vector<PreTokenizer> pre_tokenizers;
  std::vector<Decoder> decoders;
  std::vector<std::int32_t> front, back;  // ids put around the text
};

// Throws FormatError naming `name`: added tokens that clash with the vocabulary or with each other, ids
// in `front` or `back` that no token has.
std::shared_ptr<const Tokenizer> make_bpe_tokenizer(BpeTokenizerParts parts, const std::string& name);

// The pre-tokenizers of a known byte-level tokenizer, by the names of split_patterns() and "smollm"
// (digits one by one, then gpt-2). Empty for other names.
std::vector<PreTokenizer> byte_level_pre_tokenizers(std::string_view name);

}  // namespace miq
