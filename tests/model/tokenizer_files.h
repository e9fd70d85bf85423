// Small tokenizers made in code.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "miq/formats/json.h"
#include "miq/model/sentencepiece_tokenizer.h"
#include "miq/model/tokenizer.h"
#include "miq/model/unicode.h"

namespace miq::test {

// The printable character that stands for a byte in byte-level vocabularies.
inline std::string byte_character(int byte) {
  int spare = 0x100;
  for (int i = 0; i < 256; ++i) {
    const bool printable = (i >= '!' && i <= '~') || (i >= 0xA1 && i <= 0xAC) || i >= 0xAE;
    const int c = printable ? i : spare++;
    if (i == byte) {
      std::string text;
      append_utf8(text, static_cast<char32_t>(c));
      return text;
    }
  }
  return {};
}

// A byte-level BPE: ids 0 to 255 the bytes, then one token per merge, then <s> and </s> as special tokens.
inline Json byte_level_json(const std::vector<std::pair<std::string, std::string>>& merges = {
                                {"h", "e"}, {"l", "l"}, {"Ġ", "he"}, {"he", "ll"}}) {
  Json json = {{"version", "1.0"},
               {"normalizer", nullptr},
               {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
               {"post_processor", nullptr},
               {"decoder", {{"type", "ByteLevel"}}},
               {"model", {{"type", "BPE"}, {"vocab", Json::object()}, {"merges", Json::array()}}}};
  Json& vocabulary = json["model"]["vocab"];
  for (int byte = 0; byte < 256; ++byte) vocabulary[byte_character(byte)] = byte;
  int next = 256;
  for (const auto& [left, right] : merges) {
    json["model"]["merges"].push_back(left + " " + right);
    if (!vocabulary.contains(left + right)) vocabulary[left + right] = next++;
  }
  json["added_tokens"] = Json::array();
  for (const char* token : {"<s>", "</s>"}) {
    json["added_tokens"].push_back({{"id", next++}, {"content", token}, {"special", true}, {"normalized", false}});
  }
  return json;
}

// A BPE over characters with byte fallback, in the manner of Llama-2: <unk>, 256 bytes, then the rest.
inline Json byte_fallback_json(const std::vector<std::string>& characters, const std::vector<std::pair<std::string, std::string>>& merges) {
  Json json = {{"added_tokens", Json::array({{{"id", 0}, {"content", "<unk>"}, {"special", true}, {"normalized", false}}})},
               {"normalizer",
                {{"type", "Sequence"},
                 {"normalizers",
                  {{{"type", "Prepend"}, {"prepend", "▁"}}, {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}}}}}},
               {"pre_tokenizer", nullptr},
               {"decoder",
                {{"type", "Sequence"},
                 {"decoders",
                  {{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
                   {{"type", "ByteFallback"}},
                   {{"type", "Fuse"}},
                   {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}},
               {"model", {{"type", "BPE"}, {"unk_token", "<unk>"}, {"fuse_unk", true}, {"byte_fallback", true}}}};
  Json& vocabulary = json["model"]["vocab"];
  vocabulary["<unk>"] = 0;
  constexpr char kDigits[] = "0123456789ABCDEF";
  for (int byte = 0; byte < 256; ++byte) vocabulary[std::string("<0x") + kDigits[byte / 16] + kDigits[byte % 16] + ">"] = byte + 1;
  int next = 257;
  for (const std::string& character : characters) vocabulary[character] = next++;
  json["model"]["merges"] = Json::array();
  for (const auto& [left, right] : merges) {
    json["model"]["merges"].push_back(Json::array({left, right}));
    if (!vocabulary.contains(left + right)) vocabulary[left + right] = next++;
  }
  return json;
}

inline std::shared_ptr<const Tokenizer> load(const Json& json, const char* file = "tokenizer.json") {
  return load_tokenizer({{file, Blob(std::string_view(json.dump()))}}, "folder");
}

// Protobuf by hand.
inline std::string varint(std::uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
inline std::string proto_number(int field, std::uint64_t value) { return varint(static_cast<std::uint64_t>(field) << 3) + varint(value); }
inline std::string proto_bytes(int field, const std::string& bytes) {
  return varint(static_cast<std::uint64_t>(field) << 3 | 2) + varint(bytes.size()) + bytes;
}
inline std::string proto_float(int field, float value) {
  return varint(static_cast<std::uint64_t>(field) << 3 | 5) + std::string(reinterpret_cast<const char*>(&value), 4);
}

inline std::string sentencepiece_proto(const SentencePieceModel& model, int model_type = 2, const std::string& charsmap = {}) {
  std::string out;
  for (const Piece& piece : model.pieces) {
    std::string inner = proto_bytes(1, piece.text) + proto_float(2, piece.score);
    if (piece.type != PieceType::Normal) inner += proto_number(3, static_cast<int>(piece.type));
    out += proto_bytes(1, inner);
  }
  out += proto_bytes(2, proto_number(3, model_type) + proto_number(24, model.whitespace_as_suffix) + proto_number(35, model.byte_fallback));
  out += proto_bytes(3, proto_bytes(1, charsmap.empty() ? "identity" : "nmt_nfkc") + (charsmap.empty() ? "" : proto_bytes(2, charsmap)) +
                            proto_number(3, model.add_dummy_prefix) + proto_number(4, model.remove_extra_whitespaces) +
                            proto_number(5, model.escape_whitespaces));
  return out;
}

// Random text of the kinds that tokenizers stumble over.
template <class Random>
std::string random_text(Random& random, std::size_t length, const std::vector<std::string>& pool = {}) {
  static const std::vector<std::string> kPool = {
      "a",       "b",    "e",  "l",      "o",      "Z",      "s",        "t",      "'",      "'s",   "'LL", "'ve", "'ſ", " ", "  ",
      "\n",      "\r\n", "\t", "\u00A0", "\u3000", "\u0085", "1",        "23",     "½",      "٣",    "Ⅷ",   ".",   "!?", "-", "é",
      "e\u0301", "ß",    "中", "文字",   "한",     "😀",      "👨\u200D👩", "\u0301", "\u0316", "\x01", "_",   "<s>", "▁"};
  const std::vector<std::string>& from = pool.empty() ? kPool : pool;
  std::string text;
  for (std::size_t i = 0; i < length; ++i) text += from[random() % from.size()];
  return text;
}

}  // namespace miq::test
