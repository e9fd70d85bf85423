// Text is normalised (white space and the dummy prefix), cut where no piece can reach across, and each
// part is merged from a heap ordered by score, then place, as bpe_model.cc does. Parts repeat: the ids of
// each distinct short part are computed once per call.
#include "miq/model/sentencepiece_tokenizer.h"

#include <algorithm>
#include <cmath>
#include <queue>
#include <unordered_map>
#include <unordered_set>

#include "miq/base/error.h"
#include "miq/formats/json.h"
#include "miq/model/added_tokens.h"
#include "miq/model/bpe.h"
#include "miq/model/unicode.h"

namespace miq {
namespace {

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581
constexpr std::size_t kCachedPart = 128;

struct Symbol {
  std::string_view text;  // empty once merged into its left neighbour
  std::int32_t previous, next;
  bool frozen;  // a user-defined piece: never merged
};

struct Candidate {
  float score;
  std::int32_t left, right;
  std::size_t size;  // of both symbols; another size means that one of them has changed
  bool operator<(const Candidate& other) const { return score != other.score ? score < other.score : left > other.left; }
};

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(SentencePieceModel model, std::vector<std::int32_t> front, std::vector<std::int32_t> back,
                         const std::string& name);
  std::vector<std::int32_t> encode(std::string_view text, bool special) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;
  std::int64_t vocabulary() const override { return static_cast<std::int64_t>(model_.pieces.size()); }
  std::string kind() const override { return "SentencePiece BPE"; }

 private:
  using Splits = std::unordered_map<std::string_view, std::pair<std::string_view, std::string_view>>;
  void index_pieces(const std::string& name);
  void note_bigrams(std::string_view piece);
  std::string normalize(std::string_view text) const;
  bool reachable(std::string_view piece) const;
  std::size_t user_defined_at(std::string_view text, std::size_t at) const;
  std::int32_t piece_id(std::string_view text) const;
  void encode_part(std::string_view part, std::vector<std::int32_t>& ids) const;
  void merge(std::vector<Symbol>& symbols, Splits& splits) const;
  void emit(std::string_view piece, const Splits& splits, std::vector<std::int32_t>& ids) const;
  void cut(std::string_view text, std::vector<std::string_view>& parts) const;

  SentencePieceModel model_;
  std::vector<std::int32_t> front_, back_;
  // Views into model_.pieces. Control, unknown and byte pieces take no part in merges.
  std::unordered_map<std::string_view, std::int32_t> pieces_, reserved_;
  std::int32_t unknown_ = -1;
  std::int32_t byte_ids_[256];
  std::size_t longest_ = 0;
  AddedTokenMatcher user_defined_;  // pattern k is the piece user_defined_ids_[k]
  std::vector<std::int32_t> user_defined_ids_;
  std::unordered_set<std::uint64_t> bigrams_;  // pairs of characters inside pieces
  bool has_unused_ = false;                    // unused pieces, once made, are split again by what the whole text did
};

SentencePieceTokenizer::SentencePieceTokenizer(SentencePieceModel model, std::vector<std::int32_t> front, std::vector<std::int32_t> back,
                                               const std::string& name)
    : model_(std::move(model)), front_(std::move(front)), back_(std::move(back)) {
  std::fill(std::begin(byte_ids_), std::end(byte_ids_), -1);
  index_pieces(name);
  if (unknown_ < 0) throw FormatError(name, "has no unknown piece");
  if (model_.byte_fallback) {
    for (int byte = 0; byte < 256; ++byte) {
      const std::string text = byte_token(static_cast<std::uint8_t>(byte));
      if (byte_ids_[byte] < 0) throw FormatError(name, "falls back to bytes but has no piece " + text);
    }
  }
  for (const auto* ids : {&front_, &back_}) {
    for (std::int32_t id : *ids) {
      if (id >= 0 && id < vocabulary()) continue;
      throw FormatError(name, "the id " + std::to_string(id) + " is put around the text, but no piece has it");
    }
  }
}

void SentencePieceTokenizer::index_pieces(const std::string& name) {
  std::vector<AddedTokenMatcher::Pattern> user_defined;
  for (std::size_t i = 0; i < model_.pieces.size(); ++i) {
    const Piece& piece = model_.pieces[i];
    const auto id = static_cast<std::int32_t>(i);
    const auto fail = [&](const std::string& problem) {
      throw FormatError(name, "piece " + std::to_string(i) + " (" + shown(piece.text) + ") " + problem, "The file may be damaged: fetch it again");
    };
    if (piece.text.empty()) fail("is empty");
    if (std::isnan(piece.score)) fail("has a score that is not a number");
    const bool merges = piece.type == PieceType::Normal || piece.type == PieceType::UserDefined || piece.type == PieceType::Unused;
    if (!(merges ? pieces_ : reserved_).emplace(piece.text, id).second) fail("is there twice");
    if (merges) {
      longest_ = std::max(longest_, piece.text.size());
      note_bigrams(piece.text);
    }
    if (piece.type == PieceType::UserDefined) {
      constexpr std::size_t kMost = AddedTokenMatcher::kMaxBytes;
      if (piece.text.size() > kMost) fail("is user-defined and longer than " + std::to_string(kMost) + " bytes");
      user_defined.push_back({piece.text, {}});
      user_defined_ids_.push_back(id);
    }
    if (piece.type == PieceType::Unknown) {
      if (unknown_ >= 0) fail("is a second unknown piece");
      unknown_ = id;
    }
    if (piece.type == PieceType::Byte) {
      const auto byte = parse_byte_token(piece.text);
      if (!byte) fail("is a byte piece but not <0x00> to <0xFF>");
      if (!model_.byte_fallback) fail("is a byte piece, but the model does not fall back to bytes");
      byte_ids_[*byte] = id;
    }
  }
  user_defined_ = AddedTokenMatcher(std::move(user_defined));
  for (const Piece& piece : model_.pieces) has_unused_ = has_unused_ || (piece.type == PieceType::Unused && reachable(piece.text));
}

void SentencePieceTokenizer::note_bigrams(std::string_view piece) {
  char32_t before = 0;
  for (std::size_t i = 0; i < piece.size();) {
    const CodePoint point = decode_utf8(piece, i);
    if (i > 0) bigrams_.insert((std::uint64_t{before} << 32) | point.value);
    before = point.value;
    i += point.length;
  }
}

// Length of the longest user-defined piece at `at`, or 0.
std::size_t SentencePieceTokenizer::user_defined_at(std::string_view text, std::size_t at) const {
  const std::int32_t found = user_defined_.match(text, at);
  return found < 0 ? 0 : model_.pieces[user_defined_ids_[found]].text.size();
}

// Can merges make this piece? If so, some cut leaves parts that are pieces or single characters. Padding
// like "[PAD1]" is not, and then it is of no account. Yes for very long pieces, which are not looked at.
bool SentencePieceTokenizer::reachable(std::string_view piece) const {
  if (piece.size() > 256) return true;
  const auto symbol = [&](std::string_view part) { return decode_utf8(part, 0).length == part.size() || pieces_.contains(part); };
  for (std::size_t i = 1; i < piece.size(); ++i) {
    if (symbol(piece.substr(0, i)) && symbol(piece.substr(i))) return true;
  }
  return false;
}

// normalizer.cc Normalizer::Normalize with an identity map. Each byte that is no UTF-8 becomes U+FFFD.
std::string SentencePieceTokenizer::normalize(std::string_view text) const {
  const std::string_view space = model_.escape_whitespaces ? kSpaceSymbol : std::string_view(" ");
  std::string out;
  std::size_t at = 0;
  if (model_.remove_extra_whitespaces) {
    while (at < text.size() && text[at] == ' ' && user_defined_at(text, at) <= 1) ++at;
  }
  if (at == text.size()) return out;
  out.reserve(text.size() * 3 / 2);
  if (!model_.whitespace_as_suffix && model_.add_dummy_prefix) out += space;
  bool after_space = model_.remove_extra_whitespaces;
  while (at < text.size()) {
    std::string_view part = "\xEF\xBF\xBD";
    std::size_t length = user_defined_at(text, at);
    if (length > 0) {
      part = text.substr(at, length);
    } else {
      const CodePoint point = decode_utf8(text, at);
      length = point.valid ? point.length : 1;
      if (point.valid) part = text.substr(at, length);
    }
    at += length;
    while (after_space && part.starts_with(' ')) part.remove_prefix(1);
    for (char c : part) {
      if (c == ' ') {
        out += space;
      } else {
        out += c;
      }
    }
    if (!part.empty()) after_space = part.ends_with(' ');
    if (!model_.remove_extra_whitespaces) after_space = false;
  }
  if (model_.remove_extra_whitespaces) {
    while (out.ends_with(space)) out.resize(out.size() - space.size());
  }
  if (model_.whitespace_as_suffix && model_.add_dummy_prefix) out += space;
  return out;
}

std::int32_t SentencePieceTokenizer::piece_id(std::string_view text) const {
  if (const auto at = reserved_.find(text); at != reserved_.end()) return at->second;
  const auto at = pieces_.find(text);
  return at == pieces_.end() ? unknown_ : at->second;
}

void SentencePieceTokenizer::cut(std::string_view text, std::vector<std::string_view>& parts) const {
  if (has_unused_) {
    if (!text.empty()) parts.push_back(text);
    return;
  }
  std::size_t start = 0;
  char32_t before = 0;
  bool frozen_before = true;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t user_defined = user_defined_at(text, i);
    const CodePoint point = decode_utf8(text, i);
    const bool frozen = user_defined > 0;
    if (i > start && (frozen || frozen_before || !bigrams_.contains((std::uint64_t{before} << 32) | point.value))) {
      parts.push_back(text.substr(start, i - start));
      start = i;
    }
    before = point.value;
    frozen_before = frozen;
    i += frozen ? user_defined : point.length;
  }
  if (start < text.size()) parts.push_back(text.substr(start));
}

void SentencePieceTokenizer::merge(std::vector<Symbol>& symbols, Splits& splits) const {
  std::priority_queue<Candidate> agenda;
  const auto consider = [&](std::int32_t left, std::int32_t right) {
    if (left < 0 || right < 0 || symbols[left].frozen || symbols[right].frozen) return;
    const std::string_view joined(symbols[left].text.data(), symbols[left].text.size() + symbols[right].text.size());
    if (joined.size() > longest_) return;
    const auto at = pieces_.find(joined);
    if (at == pieces_.end()) return;
    const Piece& piece = model_.pieces[at->second];
    agenda.push({piece.score, left, right, joined.size()});
    if (piece.type == PieceType::Unused) splits[joined] = {symbols[left].text, symbols[right].text};
  };
  for (std::int32_t i = 1; i < static_cast<std::int32_t>(symbols.size()); ++i) consider(i - 1, i);
  while (!agenda.empty()) {
    const Candidate top = agenda.top();
    agenda.pop();
    Symbol& left = symbols[top.left];
    Symbol& right = symbols[top.right];
    if (left.text.empty() || right.text.empty() || left.text.size() + right.text.size() != top.size) continue;
    left.text = std::string_view(left.text.data(), top.size);
    left.next = right.next;
    if (right.next >= 0) symbols[right.next].previous = top.left;
    right.text = {};
    consider(left.previous, top.left);
    consider(top.left, left.next);
  }
}

// Ids of one merged symbol: unused pieces fall apart again, unknown ones into bytes.
void SentencePieceTokenizer::emit(std::string_view piece, const Splits& splits, std::vector<std::int32_t>& ids) const {
  std::vector<std::string_view> open{piece};
  while (!open.empty()) {
    const std::string_view now = open.back();
    open.pop_back();
    const std::int32_t id = piece_id(now);
    const PieceType type = model_.pieces[id].type;
    if (type == PieceType::Unused) {
      if (const auto at = splits.find(now); at != splits.end()) {
        open.push_back(at->second.second);
        open.push_back(at->second.first);
        continue;
      }
    }
    if (type == PieceType::Unknown && model_.byte_fallback) {
      for (char byte : now) ids.push_back(byte_ids_[static_cast<std::uint8_t>(byte)]);
    } else {
      ids.push_back(id);
    }
  }
}

// REQUIRES: part is not empty.
void SentencePieceTokenizer::encode_part(std::string_view part, std::vector<std::int32_t>& ids) const {
  std::vector<Symbol> symbols;
  for (std::size_t i = 0; i < part.size();) {
    const std::size_t user_defined = user_defined_at(part, i);
    const std::size_t length = user_defined > 0 ? user_defined : decode_utf8(part, i).length;
    const auto place = static_cast<std::int32_t>(symbols.size());
    symbols.push_back({part.substr(i, length), place - 1, place + 1, user_defined > 0});
    i += length;
  }
  symbols.back().next = -1;
  Splits splits;
  merge(symbols, splits);
  for (std::int32_t i = 0; i >= 0; i = symbols[i].next) emit(symbols[i].text, splits, ids);
}

std::vector<std::int32_t> SentencePieceTokenizer::encode(std::string_view text, bool special) const {
  std::vector<std::int32_t> ids = special ? front_ : std::vector<std::int32_t>();
  const std::string normalized = normalize(text);
  std::vector<std::string_view> parts;
  cut(normalized, parts);
  struct Place {
    std::size_t start, count;
  };
  std::unordered_map<std::string_view, Place> known;
  std::vector<std::int32_t> kept, long_part;
  bool after_unknown = false;
  // Neighbouring unknown pieces become one, across parts too.
  const auto append = [&](const std::int32_t* from, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      const bool is_unknown = from[i] == unknown_;
      if (!(is_unknown && after_unknown)) ids.push_back(from[i]);
      after_unknown = is_unknown;
    }
  };
  for (std::string_view part : parts) {
    if (part.size() > kCachedPart) {
      long_part.clear();
      encode_part(part, long_part);
      append(long_part.data(), long_part.size());
      continue;
    }
    const auto [at, fresh] = known.try_emplace(part, Place{kept.size(), 0});
    if (fresh) {
      encode_part(part, kept);
      at->second.count = kept.size() - at->second.start;
    }
    append(kept.data() + at->second.start, at->second.count);
  }
  if (special) ids.insert(ids.end(), back_.begin(), back_.end());
  return ids;
}

std::string SentencePieceTokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  bool at_front = model_.add_dummy_prefix || model_.remove_extra_whitespaces;
  for (std::int32_t id : ids) {
    if (id < 0 || id >= vocabulary()) continue;
    const Piece& piece = model_.pieces[id];
    if (piece.type == PieceType::Control) continue;
    if (piece.type == PieceType::Byte) {
      text += static_cast<char>(*parse_byte_token(piece.text));
    } else if (piece.type == PieceType::Unknown) {
      text += model_.unknown_surface;
    } else {
      std::string_view rest = piece.text;
      bool stripped = false;
      if (at_front && rest.starts_with(kSpaceSymbol)) {
        rest.remove_prefix(kSpaceSymbol.size());
        stripped = !model_.remove_extra_whitespaces;
      }
      for (std::size_t found; (found = rest.find(kSpaceSymbol)) != std::string_view::npos;) {
        text.append(rest.substr(0, found)) += ' ';
        rest.remove_prefix(found + kSpaceSymbol.size());
      }
      text += rest;
      if (stripped) at_front = false;
    }
    if (!text.empty()) at_front = false;
  }
  return text;
}

// "bos_token": "<s>" or {"content": "<s>", …}; `otherwise` where absent.
std::string token_in_config(const Json& config, const char* key, const std::string& otherwise) {
  const auto at = config.find(key);
  if (at == config.end()) return otherwise;
  if (at->is_string()) return at->get<std::string>();
  if (at->is_object() && at->contains("content") && (*at)["content"].is_string()) return (*at)["content"].get<std::string>();
  return otherwise;
}

}  // namespace

std::shared_ptr<const Tokenizer> make_sentencepiece_tokenizer(SentencePieceModel model, std::vector<std::int32_t> front,
                                                              std::vector<std::int32_t> back, const std::string& name) {
  return std::make_shared<SentencePieceTokenizer>(std::move(model), std::move(front), std::move(back), name);
}

std::shared_ptr<const Tokenizer> read_sentencepiece(Bytes proto, std::string_view tokenizer_config, const std::string& name) {
  SentencePieceModel model = parse_sentencepiece(proto, name);
  const std::string config_name = name + " (tokenizer_config.json)";
  const Json config = tokenizer_config.empty() ? Json::object() : parse_json(tokenizer_config, config_name);
  if (!config.is_object()) throw FormatError(config_name, "is not an object");
  const auto edge = [&](const char* switch_key, const char* token_key, const std::string& piece, bool otherwise) {
    const auto at = config.find(switch_key);
    const bool asked = at != config.end() && at->is_boolean();
    if (!(asked ? at->get<bool>() : otherwise)) return std::vector<std::int32_t>();
    const std::string text = token_in_config(config, token_key, piece);
    for (std::size_t i = 0; i < model.pieces.size(); ++i) {
      if (model.pieces[i].text == text) return std::vector<std::int32_t>{static_cast<std::int32_t>(i)};
    }
    if (asked) throw FormatError(name, "has no piece " + shown(text) + ", which " + switch_key + " in tokenizer_config.json asks for");
    return std::vector<std::int32_t>();
  };
  std::vector<std::int32_t> front = edge("add_bos_token", "bos_token", model.bos_piece, true);
  std::vector<std::int32_t> back = edge("add_eos_token", "eos_token", model.eos_piece, false);
  return make_sentencepiece_tokenizer(std::move(model), std::move(front), std::move(back), name);
}

}  // namespace miq
