// Text is cut into spans (added tokens), spans into words (pre-tokenizers), words into ids. Words repeat:
// the ids of each distinct short word are computed once per call. Strings that a step makes live in an
// arena for the length of the call, everything else is a view into the text.
#include "miq/model/bpe_tokenizer.h"

#include <algorithm>
#include <array>
#include <deque>

#include "miq/base/error.h"

namespace miq {
namespace {

constexpr std::size_t kCachedWord = 128;  // bytes; longer words are rare and not kept
constexpr std::size_t kUncutWord = 64;    // longer pieces are cut where no merge can reach across

using Arena = std::deque<std::string>;

// A file's replacements may not blow a text up without bound: real ones put 3 bytes in place of 1.
constexpr std::size_t kMaxGrowth = 64;
void check_growth(std::size_t now, std::size_t before) {
  if (now <= before * kMaxGrowth + 4096) return;
  throw Error("the tokenizer's replacements make a text of " + std::to_string(before) + " bytes more than " + std::to_string(kMaxGrowth) +
              " times as long. Its tokenizer.json is damaged or hostile");
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size());
  std::size_t at = 0;
  while (true) {
    const std::size_t found = text.find(from, at);
    out.append(text.substr(at, found == std::string_view::npos ? found : found - at));
    if (found == std::string_view::npos) return out;
    out.append(to);
    check_growth(out.size(), text.size());
    at = found + from.size();
  }
}

std::string normalize(std::string_view text, const std::vector<Normalizer>& normalizers) {
  std::string now(text);
  for (const Normalizer& step : normalizers) {
    if (const auto* form = std::get_if<NormalForm>(&step)) {
      now = unicode_normalize(now, *form);
    } else if (const auto* prepend = std::get_if<PrependText>(&step)) {
      if (!now.empty()) now.insert(0, prepend->text);
    } else {
      const auto& replace = std::get<ReplaceText>(step);
      now = replace_all(now, replace.from, replace.to);
    }
    check_growth(now.size(), text.size());
  }
  return now;
}

// GPT-2's table: printable Latin-1 bytes stand for themselves, the others for U+0100 onwards in order.
struct ByteLevelTable {
  std::array<std::string, 256> text;
  std::unordered_map<char32_t, std::uint8_t> byte;
  ByteLevelTable() {
    char32_t spare = 0x100;
    for (int i = 0; i < 256; ++i) {
      const bool printable = (i >= '!' && i <= '~') || (i >= 0xA1 && i <= 0xAC) || i >= 0xAE;
      const char32_t c = printable ? static_cast<char32_t>(i) : spare++;
      append_utf8(text[i], c);
      byte[c] = static_cast<std::uint8_t>(i);
    }
  }
};
const ByteLevelTable& byte_level_table() {
  static const ByteLevelTable table;
  return table;
}

void split_metaspace(const Metaspace& step, std::string_view word, bool first, Arena& arena, std::vector<std::string_view>& out) {
  std::string& text = arena.emplace_back(replace_all(word, " ", step.replacement));
  const bool wanted = step.prepend == Metaspace::Prepend::Always || (step.prepend == Metaspace::Prepend::First && first);
  if (wanted && !text.empty() && !text.starts_with(step.replacement)) text.insert(0, step.replacement);
  const std::string_view all = text;
  if (!step.split) {
    out.push_back(all);
    return;
  }
  std::size_t start = 0;
  while (start < all.size()) {
    const std::size_t skip = all.substr(start).starts_with(step.replacement) ? step.replacement.size() : 0;
    const std::size_t next = all.find(step.replacement, start + skip);
    const std::size_t end = std::min(next, all.size());
    out.push_back(all.substr(start, end - start));
    start = end;
  }
}

// Applies one pre-tokenizer to one word. `first`: the word starts the whole text.
void pre_tokenize(const PreTokenizer& step, std::string_view word, bool first, Arena& arena, std::vector<std::string_view>& out) {
  if (const auto* digits = std::get_if<SplitDigits>(&step)) {
    split_digits(word, digits->individual, out);
  } else if (const auto* split = std::get_if<SplitByPattern>(&step)) {
    split->pattern->scan(word, out);
  } else if (const auto* metaspace = std::get_if<Metaspace>(&step)) {
    split_metaspace(*metaspace, word, first, arena, out);
  } else {
    const auto& bytes = std::get<ByteLevel>(step);
    if (bytes.prefix_space && !word.starts_with(' ')) word = arena.emplace_back(std::string(" ").append(word));
    if (bytes.use_pattern) {
      scan_gpt2(word, out);
    } else {
      out.push_back(word);
    }
  }
}

class BpeTokenizer final : public Tokenizer {
 public:
  BpeTokenizer(BpeTokenizerParts parts, const std::string& name);
  std::vector<std::int32_t> encode(std::string_view text, bool special) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;
  std::int64_t vocabulary() const override { return static_cast<std::int64_t>(tokens_.size()); }
  std::string kind() const override { return parts_.kind; }

 private:
  struct Word {
    std::size_t start, count;  // in Call::cached
  };
  struct Call {
    Arena arena;
    std::vector<std::int32_t> ids;
    std::unordered_map<std::string_view, Word> words;
    std::vector<std::int32_t> cached;
    std::vector<std::string_view> now, next, pieces;
  };
  void make_room(std::int32_t id, const std::string& name);
  void add_token(const AddedToken& token, const std::string& name);
  void encode_stretch(std::string_view text, bool first, Call& call) const;
  void encode_word(std::string_view word, Call& call) const;
  void run_bpe(std::string_view word, std::vector<std::int32_t>& ids) const;

  BpeTokenizerParts parts_;
  bool byte_level_ = false;
  AddedTokenMatcher raw_, normalized_;
  std::vector<std::string> tokens_;  // by id; empty where no token has the id
  std::vector<bool> special_;
};

BpeTokenizer::BpeTokenizer(BpeTokenizerParts parts, const std::string& name) : parts_(std::move(parts)) {
  for (const auto& [token, id] : parts_.bpe->vocabulary()) {
    make_room(id, name);
    tokens_[id] = token;
  }
  byte_level_ = !parts_.pre_tokenizers.empty() && std::holds_alternative<ByteLevel>(parts_.pre_tokenizers.back());
  std::vector<AddedTokenMatcher::Pattern> raw, normalized;
  special_.resize(tokens_.size());
  std::stable_sort(parts_.added.begin(), parts_.added.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  for (const AddedToken& token : parts_.added) {
    add_token(token, name);
    std::string text = token.normalized ? normalize(token.content, parts_.normalizers) : token.content;
    if (text.empty()) continue;
    if (text.size() > AddedTokenMatcher::kMaxBytes) {
      throw FormatError(name, "the added token with id " + std::to_string(token.id) + " is longer than " +
                                  std::to_string(AddedTokenMatcher::kMaxBytes) + " bytes");
    }
    (token.normalized ? normalized : raw).push_back({std::move(text), token});
  }
  raw_ = AddedTokenMatcher(std::move(raw));
  normalized_ = AddedTokenMatcher(std::move(normalized));
  for (const auto* ids : {&parts_.front, &parts_.back}) {
    for (std::int32_t id : *ids) {
      if (id < 0 || static_cast<std::size_t>(id) >= tokens_.size() || tokens_[id].empty()) {
        throw FormatError(name, "the id " + std::to_string(id) + " is put around the text, but no token has it");
      }
    }
  }
}

// The tables by id are as long as the ids are large, so these must keep to the number of tokens: one token with the id 4,000,000 would take 128 MB.
void BpeTokenizer::make_room(std::int32_t id, const std::string& name) {
  const auto wanted = static_cast<std::size_t>(id) + 1, tokens = parts_.bpe->vocabulary().size() + parts_.added.size();
  if (wanted > 65'536 + 16 * tokens) {
    throw FormatError(name, "a token has the id " + std::to_string(id) + ", far beyond the number of tokens, " + std::to_string(tokens),
                      "Save the tokenizer again with transformers");
  }
  if (wanted > tokens_.size()) tokens_.resize(wanted);
}

void BpeTokenizer::add_token(const AddedToken& token, const std::string& name) {
  const auto what = [&] { return "the added token " + shown(token.content) + " (id " + std::to_string(token.id) + ")"; };
  if (token.id < 0 || token.id > kMaxTokenId) throw FormatError(name, what() + " has an id out of range");
  if (token.content.empty()) throw FormatError(name, what() + " is empty");
  if (const auto known = parts_.bpe->find(token.content); known && *known != token.id) {
    throw FormatError(name, what() + " has the id " + std::to_string(*known) + " in the vocabulary");
  }
  make_room(token.id, name);
  special_.resize(tokens_.size());
  if (!tokens_[token.id].empty() && tokens_[token.id] != token.content) {
    throw FormatError(name, what() + " has the id of another token, " + shown(tokens_[token.id]));
  }
  tokens_[token.id] = token.content;
  special_[token.id] = special_[token.id] || token.special;
}

void BpeTokenizer::run_bpe(std::string_view word, std::vector<std::int32_t>& ids) const {
  if (!byte_level_) {
    parts_.bpe->encode(word, ids);
    return;
  }
  std::string mapped;
  mapped.reserve(word.size() * 2);
  for (char c : word) mapped += byte_level_table().text[static_cast<std::uint8_t>(c)];
  parts_.bpe->encode(mapped, ids);
}

void BpeTokenizer::encode_word(std::string_view word, Call& call) const {
  if (word.size() > kCachedWord) {
    run_bpe(word, call.ids);
    return;
  }
  const auto [at, fresh] = call.words.try_emplace(word, Word{call.cached.size(), 0});
  if (fresh) {
    run_bpe(word, call.cached);
    at->second.count = call.cached.size() - at->second.start;
  }
  const auto start = call.cached.begin() + static_cast<std::ptrdiff_t>(at->second.start);
  call.ids.insert(call.ids.end(), start, start + static_cast<std::ptrdiff_t>(at->second.count));
}

void BpeTokenizer::encode_stretch(std::string_view text, bool first, Call& call) const {
  call.now.assign(1, text);
  for (const PreTokenizer& step : parts_.pre_tokenizers) {
    call.next.clear();
    for (std::size_t i = 0; i < call.now.size(); ++i) pre_tokenize(step, call.now[i], first && i == 0, call.arena, call.next);
    std::swap(call.now, call.next);
  }
  for (std::string_view word : call.now) {
    if (byte_level_ || word.size() <= kUncutWord) {
      encode_word(word, call);
      continue;
    }
    call.pieces.clear();
    parts_.bpe->cut(word, call.pieces);
    for (std::string_view piece : call.pieces) encode_word(piece, call);
  }
}

std::vector<std::int32_t> BpeTokenizer::encode(std::string_view text, bool special) const {
  Call call;
  if (special) call.ids = parts_.front;
  if (!is_valid_utf8(text)) text = call.arena.emplace_back(replace_invalid_utf8(text));
  std::vector<TextSpan> spans, inner;
  raw_.split(text, spans);
  for (std::size_t i = 0; i < spans.size(); ++i) {
    if (spans[i].id >= 0) {
      call.ids.push_back(spans[i].id);
      continue;
    }
    std::string_view stretch = spans[i].text;
    if (!parts_.normalizers.empty()) stretch = call.arena.emplace_back(normalize(stretch, parts_.normalizers));
    inner.clear();
    normalized_.split(stretch, inner);
    for (std::size_t k = 0; k < inner.size(); ++k) {
      if (inner[k].id >= 0) {
        call.ids.push_back(inner[k].id);
      } else {
        encode_stretch(inner[k].text, i == 0 && k == 0, call);
      }
    }
  }
  if (special) call.ids.insert(call.ids.end(), parts_.back.begin(), parts_.back.end());
  return std::move(call.ids);
}

// Bytes of a byte-level token; a token with any other character is taken as it is (an added token).
std::string from_byte_level(std::string_view token) {
  std::string bytes;
  for (std::size_t i = 0; i < token.size();) {
    const CodePoint point = decode_utf8(token, i);
    const auto at = byte_level_table().byte.find(point.value);
    if (at == byte_level_table().byte.end()) return std::string(token);
    bytes += static_cast<char>(at->second);
    i += point.length;
  }
  return bytes;
}

std::string strip(std::string_view token, const DecodeStrip& step) {
  for (std::int64_t i = 0; i < step.start && token.starts_with(step.text); ++i) token.remove_prefix(step.text.size());
  for (std::int64_t i = 0; i < step.stop && token.ends_with(step.text); ++i) token.remove_suffix(step.text.size());
  return std::string(token);
}

void apply_decoder(const Decoder& step, std::vector<std::string>& tokens) {
  if (std::holds_alternative<DecodeFuse>(step) || std::holds_alternative<DecodeJoin>(step)) {
    std::string all;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (i > 0 && std::holds_alternative<DecodeJoin>(step)) all += ' ';
      all += tokens[i];
    }
    tokens.assign(1, std::move(all));
    return;
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    std::string& token = tokens[i];
    if (std::holds_alternative<DecodeByteLevel>(step)) {
      token = from_byte_level(token);
    } else if (const auto* replace = std::get_if<DecodeReplace>(&step)) {
      token = replace_all(token, replace->from, replace->to);
    } else if (std::holds_alternative<DecodeByteFallback>(step)) {
      if (const auto byte = parse_byte_token(token)) token.assign(1, static_cast<char>(*byte));
    } else if (const auto* strip_step = std::get_if<DecodeStrip>(&step)) {
      token = strip(token, *strip_step);
    } else {
      const auto& metaspace = std::get<DecodeMetaspace>(step);
      // As the original: the first token loses every replacement, not only the one that was prepended.
      token = replace_all(token, metaspace.replacement, i == 0 && metaspace.strip_first ? "" : " ");
    }
  }
}

std::string BpeTokenizer::decode(std::span<const std::int32_t> ids) const {
  std::vector<std::string> tokens;
  for (std::int32_t id : ids) {
    if (id >= 0 && static_cast<std::size_t>(id) < tokens_.size() && !special_[id] && !tokens_[id].empty()) tokens.push_back(tokens_[id]);
  }
  for (const Decoder& step : parts_.decoders) apply_decoder(step, tokens);
  std::string text;
  for (const std::string& token : tokens) text += token;
  return text;
}

}  // namespace

std::shared_ptr<const Tokenizer> make_bpe_tokenizer(BpeTokenizerParts parts, const std::string& name) {
  return std::make_shared<BpeTokenizer>(std::move(parts), name);
}

std::vector<PreTokenizer> byte_level_pre_tokenizers(std::string_view name) {
  if (name == "smollm") return {SplitDigits{true}, ByteLevel{}};
  if (name == "gpt-2") return {ByteLevel{}};
  const SplitPattern* pattern = find_split_pattern_by_name(name);
  if (pattern == nullptr) return {};
  return {SplitByPattern{pattern}, ByteLevel{false, false}};
}

}  // namespace miq
