// Byte-pair encoding by ranked merges, exactly as Hugging Face tokenizers does it
// (tokenizers/src/models/bpe/{model,word}.rs), the order of equal merges included.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace miq {

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
using Vocabulary = std::unordered_map<std::string, std::int32_t, StringHash, std::equal_to<>>;

struct BpeOptions {
  std::string unknown;         // token for characters outside the vocabulary; empty: they vanish
  bool fuse_unknown = false;   // one unknown token for a run of them
  bool byte_fallback = false;  // unknown characters as <0xHH> tokens where all of them exist
  bool ignore_merges = false;  // a word that is a token is that token, whatever the merges
};

// Ids above this are refused: tables are indexed by id, and no vocabulary comes near.
inline constexpr std::int32_t kMaxTokenId = (1 << 22) - 1;

// Immutable and thread-safe after construction.
class Bpe {
 public:
  // Throws FormatError naming `name`: negative or repeated ids, merges whose parts or result are not in
  // the vocabulary, an unknown token that is not there.
  Bpe(Vocabulary vocabulary, const std::vector<std::pair<std::string, std::string>>& merges, BpeOptions options, const std::string& name);

  // Appends the ids of one word (valid UTF-8; for byte-level tokenizers already mapped to printable
  // characters). O(n log n) in its length.
  void encode(std::string_view word, std::vector<std::int32_t>& ids) const;
  // Cuts `text` where no merge can reach across, so that encoding the pieces gives the ids of the whole.
  void cut(std::string_view text, std::vector<std::string_view>& pieces) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }
  std::optional<std::int32_t> find(std::string_view token) const;
  bool ignore_merges() const { return options_.ignore_merges; }

 private:
  struct Merge {
    std::uint32_t rank;
    std::int32_t id;
  };
  struct Symbol {
    std::int32_t id, previous, next;
    bool removed;
  };
  const Merge* find_merge(std::int32_t left, std::int32_t right) const;
  void split_characters(std::string_view word, std::vector<Symbol>& symbols) const;
  void merge(std::vector<Symbol>& symbols) const;
  void note_bigrams(std::string_view token);

  Vocabulary vocabulary_;
  BpeOptions options_;
  std::int32_t unknown_ = -1;
  std::int32_t byte_ids_[256];
  std::size_t longest_ = 0;  // bytes of the longest token
  std::unordered_map<std::uint64_t, Merge> merges_;
  std::unordered_map<char32_t, std::int32_t> characters_;  // tokens of one character
  bool cuttable_ = true;
  std::unordered_set<std::uint64_t> bigrams_;  // pairs of characters inside the results of merges
};

// "<0x0A>": the only spelling of byte tokens, two upper-case hexadecimal digits.
std::string byte_token(std::uint8_t byte);
std::optional<std::uint8_t> parse_byte_token(std::string_view token);

}  // namespace miq
