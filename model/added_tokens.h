// Tokens that are matched in the text before anything else: special tokens and those a user added.
// As tokenizers/src/tokenizer/added_vocabulary.rs: the leftmost match, of those the longest.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace miq {

struct AddedToken {
  std::int32_t id = -1;
  std::string content;
  bool special = false;      // left out when decoding
  bool normalized = false;   // matched in the normalised text, its own content normalised too
  bool single_word = false;  // only where no word character touches it
  bool left_strip = false;   // takes the white space before it
  bool right_strip = false;  // and after it
};

// A stretch of text, or (id >= 0) an added token found there.
struct TextSpan {
  std::string_view text;
  std::int32_t id = -1;
};

// Immutable and thread-safe. Time is linear in the text for each byte of the longest pattern.
class AddedTokenMatcher {
 public:
  static constexpr std::size_t kMaxBytes = 1024;  // of a pattern; callers refuse longer ones
  struct Pattern {
    std::string text;  // what to look for: the content, normalised where that is asked
    AddedToken token;
  };
  // Of patterns with equal text the first counts. REQUIRES: none empty or longer than kMaxBytes.
  explicit AddedTokenMatcher(std::vector<Pattern> patterns = {});
  // Appends the spans of `text` (valid UTF-8) in order. None is empty.
  void split(std::string_view text, std::vector<TextSpan>& spans) const;
  // The longest pattern that `text` has at `at`: its place in the list given, or -1.
  std::int32_t match(std::string_view text, std::size_t at) const;

 private:
  struct Node {
    std::int32_t pattern = -1;
    std::vector<std::pair<std::uint8_t, std::int32_t>> next;  // few per node
  };
  std::int32_t step(std::int32_t node, std::uint8_t byte) const;

  std::vector<Pattern> patterns_;
  std::vector<Node> nodes_;
  bool first_[256] = {};
};

}  // namespace miq
