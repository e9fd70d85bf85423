// Merges run from a heap of candidates ordered by rank, then place. A popped candidate is stale unless
// the pair now at its place still gives the same token (the original compares that and nothing more).
#include "miq/model/bpe.h"

#include <algorithm>
#include <queue>

#include "miq/base/error.h"
#include "miq/model/unicode.h"

namespace miq {
namespace {

std::uint64_t pair_key(std::uint32_t left, std::uint32_t right) { return (std::uint64_t{left} << 32) | right; }

struct Candidate {
  std::uint32_t rank;
  std::int32_t place, id;
  bool operator<(const Candidate& other) const {  // the heap's top is the greatest: lowest rank, then leftmost
    return rank != other.rank ? rank > other.rank : place > other.place;
  }
};

}  // namespace

std::string byte_token(std::uint8_t byte) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  return std::string("<0x") + kDigits[byte >> 4] + kDigits[byte & 15] + ">";
}

std::optional<std::uint8_t> parse_byte_token(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return std::nullopt;
  int value = 0;
  for (char c : token.substr(3, 2)) {
    if (c >= '0' && c <= '9') {
      value = value * 16 + (c - '0');
    } else if (c >= 'A' && c <= 'F') {
      value = value * 16 + (c - 'A' + 10);
    } else {
      return std::nullopt;
    }
  }
  return static_cast<std::uint8_t>(value);
}

Bpe::Bpe(Vocabulary vocabulary, const std::vector<std::pair<std::string, std::string>>& merges, BpeOptions options, const std::string& name)
    : vocabulary_(std::move(vocabulary)), options_(std::move(options)) {
  std::unordered_set<std::int32_t> seen;
  for (const auto& [token, id] : vocabulary_) {
    const std::string number = std::to_string(id);
    if (id < 0 || id > kMaxTokenId) throw FormatError(name, "token " + shown(token) + " has the id " + number + ", which is out of range");
    if (!seen.insert(id).second) throw FormatError(name, "the id " + number + " is given to two tokens, one of them " + shown(token));
    longest_ = std::max(longest_, token.size());
    if (token.empty()) continue;
    const CodePoint first = decode_utf8(token, 0);
    if (first.valid && first.length == token.size()) characters_[first.value] = id;
  }
  if (!options_.unknown.empty()) {
    const auto id = find(options_.unknown);
    if (!id) throw FormatError(name, "the unknown token " + shown(options_.unknown) + " is not in the vocabulary");
    unknown_ = *id;
  }
  for (int byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] = options_.byte_fallback ? find(byte_token(static_cast<std::uint8_t>(byte))).value_or(-1) : -1;
  }

  merges_.reserve(merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const std::string &left = merges[i].first, &right = merges[i].second;  // clang 14 cannot capture bindings
    const auto require = [&](const std::string& token) {
      const auto id = find(token);
      if (id) return *id;
      throw FormatError(name, "merge " + std::to_string(i) + " (" + shown(left) + " + " + shown(right) + ") names the token " +
                                  shown(token) + ", which is not in the vocabulary");
    };
    const std::int32_t left_id = require(left), right_id = require(right);
    // A merge listed twice counts at its last place, as in the original.
    merges_[pair_key(left_id, right_id)] = {static_cast<std::uint32_t>(i), require(left + right)};
    // Characters can also enter as the unknown token or as byte tokens; were those to merge, the text of
    // a token would no longer tell which characters it covers.
    for (const std::string* token : {&left, &right}) cuttable_ &= *token != options_.unknown && !parse_byte_token(*token);
    note_bigrams(left + right);
  }
}

void Bpe::note_bigrams(std::string_view token) {
  char32_t before = 0;
  for (std::size_t i = 0; i < token.size();) {
    const CodePoint point = decode_utf8(token, i);
    if (i > 0) bigrams_.insert(pair_key(before, point.value));
    before = point.value;
    i += point.length;
  }
}

std::optional<std::int32_t> Bpe::find(std::string_view token) const {
  const auto at = vocabulary_.find(token);
  return at == vocabulary_.end() ? std::nullopt : std::optional(at->second);
}

const Bpe::Merge* Bpe::find_merge(std::int32_t left, std::int32_t right) const {
  const auto at = merges_.find(pair_key(left, right));
  return at == merges_.end() ? nullptr : &at->second;
}

void Bpe::cut(std::string_view text, std::vector<std::string_view>& pieces) const {
  // A word that is a token, or unknown characters that fuse, must stay in one piece.
  if (!cuttable_ || (options_.ignore_merges && text.size() <= longest_)) {
    pieces.push_back(text);
    return;
  }
  std::size_t start = 0;
  bool known_before = false;
  char32_t before = 0;
  for (std::size_t i = 0; i < text.size();) {
    const CodePoint point = decode_utf8(text, i);
    const bool known = characters_.contains(point.value);
    if (known && known_before && !bigrams_.contains(pair_key(before, point.value))) {
      pieces.push_back(text.substr(start, i - start));
      start = i;
    }
    before = point.value;
    known_before = known;
    i += point.length;
  }
  if (start < text.size()) pieces.push_back(text.substr(start));
}

void Bpe::split_characters(std::string_view word, std::vector<Symbol>& symbols) const {
  const auto add = [&](std::int32_t id) {
    const auto place = static_cast<std::int32_t>(symbols.size());
    symbols.push_back({id, place - 1, place + 1, false});
  };
  bool unknown_waits = false;
  for (std::size_t i = 0; i < word.size();) {
    const CodePoint point = decode_utf8(word, i);
    const std::string_view bytes = word.substr(i, point.length);
    i += point.length;
    const auto known = characters_.find(point.value);
    if (known != characters_.end()) {
      if (unknown_waits) add(unknown_);
      unknown_waits = false;
      add(known->second);
      continue;
    }
    const auto byte_id = [&](char byte) { return byte_ids_[static_cast<std::uint8_t>(byte)]; };
    if (std::all_of(bytes.begin(), bytes.end(), [&](char byte) { return byte_id(byte) >= 0; })) {
      // The original leaves an unknown token waiting here, so it comes after these bytes.
      for (char byte : bytes) add(byte_id(byte));
    } else if (unknown_ >= 0) {
      if (unknown_waits && !options_.fuse_unknown) add(unknown_);
      unknown_waits = true;
    }
  }
  if (unknown_waits) add(unknown_);
  if (!symbols.empty()) symbols.back().next = -1;
}

void Bpe::merge(std::vector<Symbol>& symbols) const {
  std::vector<Candidate> storage;
  storage.reserve(symbols.size());
  const auto candidate = [&](std::int32_t place, std::int32_t right) -> std::optional<Candidate> {
    const Merge* found = find_merge(symbols[place].id, symbols[right].id);
    if (found == nullptr) return std::nullopt;
    return Candidate{found->rank, place, found->id};
  };
  for (std::int32_t i = 0; i + 1 < static_cast<std::int32_t>(symbols.size()); ++i) {
    if (const auto made = candidate(i, i + 1)) storage.push_back(*made);
  }
  std::priority_queue<Candidate> queue(std::less<Candidate>{}, std::move(storage));
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Symbol& left = symbols[top.place];
    if (left.removed || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    const Merge* current = find_merge(left.id, right.id);
    if (current == nullptr || current->id != top.id) continue;
    left.id = top.id;
    left.next = right.next;
    right.removed = true;
    if (left.next >= 0) symbols[left.next].previous = top.place;
    if (left.previous >= 0) {
      if (const auto made = candidate(left.previous, top.place)) queue.push(*made);
    }
    if (left.next >= 0) {
      if (const auto made = candidate(top.place, left.next)) queue.push(*made);
    }
  }
}

void Bpe::encode(std::string_view word, std::vector<std::int32_t>& ids) const {
  if (options_.ignore_merges && word.size() <= longest_) {
    if (const auto whole = find(word)) {
      ids.push_back(*whole);
      return;
    }
  }
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  split_characters(word, symbols);
  if (symbols.size() > 1) merge(symbols);
  for (const Symbol& symbol : symbols) {
    if (!symbol.removed) ids.push_back(symbol.id);
  }
}

}  // namespace miq
