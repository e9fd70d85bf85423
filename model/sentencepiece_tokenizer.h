// SentencePiece models of type BPE (Llama-1/2, Vicuna, Mistral, Yi): tokenizer.model files, and the same
// model as a GGUF carries it.
//
// The protobuf is read by a bounded reader of our own and the text is encoded by our own BPE with scores;
// the SentencePiece library is not linked. Why: Debian 12's 0.1.97 has known memory faults on hostile
// models (CVE-2026-1260 among others) in its loader, its tries and its charsmap; what a BPE model with
// identity normalisation needs of it is two functions (bpe_model.cc Model::Encode, normalizer.cc
// Normalizer::Normalize) that are short enough to match exactly, and the tests compare against the library.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "miq/base/blob.h"
#include "miq/model/tokenizer.h"

namespace miq {

// ModelProto.SentencePiece.Type; the same numbers as GGUF's token_type.
enum class PieceType { Normal = 1, Unknown = 2, Control = 3, UserDefined = 4, Unused = 5, Byte = 6 };

struct Piece {
  std::string text;
  float score = 0;
  PieceType type = PieceType::Normal;
};

struct SentencePieceModel {
  std::vector<Piece> pieces;  // the place is the id
  bool byte_fallback = false;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  bool whitespace_as_suffix = false;
  std::string bos_piece = "<s>", eos_piece = "</s>";
  std::string unknown_surface = " \xE2\x81\x87 ";  // " ⁇ ": an unknown piece, decoded
};

// Reads ModelProto fields 1 (pieces), 2 (trainer_spec) and 3 (normalizer_spec); skips others. Throws
// FormatError with the offset: lengths beyond the file, varints over 10 bytes, groups, pieces over 64 KiB,
// model types other than BPE, a precompiled_charsmap (any normalisation but identity).
SentencePieceModel parse_sentencepiece(Bytes proto, const std::string& name);

// `front` and `back`: ids put around the text. Throws FormatError: empty or repeated pieces, NaN scores, no
// unknown piece or two, byte pieces that are not exactly <0x00> to <0xFF>, ids without a piece.
std::shared_ptr<const Tokenizer> make_sentencepiece_tokenizer(SentencePieceModel model, std::vector<std::int32_t> front,
                                                              std::vector<std::int32_t> back, const std::string& name);

// tokenizer.model with what tokenizer_config.json (may be empty) says of add_bos_token (default true where
// the model has a BOS piece), add_eos_token (default false), bos_token and eos_token. Text is taken as the
// SentencePiece library takes it: control pieces spelled out in the text are text, user-defined ones are
// matched.
std::shared_ptr<const Tokenizer> read_sentencepiece(Bytes proto, std::string_view tokenizer_config, const std::string& name);

}  // namespace miq
