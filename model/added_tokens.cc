// A trie over bytes, walked from every byte that starts a pattern.
#include "miq/model/added_tokens.h"

#include <algorithm>

#include "miq/model/unicode.h"

namespace miq {
namespace {

// Start of the code point that ends before `end`. REQUIRES: end > 0 and valid UTF-8.
std::size_t previous_code_point(std::string_view text, std::size_t end) {
  do {
    --end;
  } while (end > 0 && (static_cast<std::uint8_t>(text[end]) & 0xC0) == 0x80);
  return end;
}

bool class_at(std::string_view text, std::size_t at, std::uint8_t flag) { return (unicode_class(decode_utf8(text, at).value) & flag) != 0; }

bool word_before(std::string_view text, std::size_t at) { return at > 0 && class_at(text, previous_code_point(text, at), kWord); }
bool word_after(std::string_view text, std::size_t at) { return at < text.size() && class_at(text, at, kWord); }

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<Pattern> patterns) : patterns_(std::move(patterns)), nodes_(1) {
  for (std::size_t i = 0; i < patterns_.size(); ++i) {
    const std::string& text = patterns_[i].text;
    first_[static_cast<std::uint8_t>(text[0])] = true;
    std::int32_t node = 0;
    for (char c : text) {
      const auto byte = static_cast<std::uint8_t>(c);
      std::int32_t next = step(node, byte);
      if (next < 0) {
        next = static_cast<std::int32_t>(nodes_.size());
        nodes_[node].next.emplace_back(byte, next);
        nodes_.emplace_back();
      }
      node = next;
    }
    if (nodes_[node].pattern < 0) nodes_[node].pattern = static_cast<std::int32_t>(i);
  }
}

std::int32_t AddedTokenMatcher::step(std::int32_t node, std::uint8_t byte) const {
  for (const auto& [label, next] : nodes_[node].next) {
    if (label == byte) return next;
  }
  return -1;
}

std::int32_t AddedTokenMatcher::match(std::string_view text, std::size_t at) const {
  if (!first_[static_cast<std::uint8_t>(text[at])]) return -1;
  std::int32_t node = 0, best = -1;
  for (; at < text.size(); ++at) {
    node = step(node, static_cast<std::uint8_t>(text[at]));
    if (node < 0) break;
    if (nodes_[node].pattern >= 0) best = nodes_[node].pattern;
  }
  return best;
}

void AddedTokenMatcher::split(std::string_view text, std::vector<TextSpan>& spans) const {
  std::size_t open = 0;  // start of the text not yet given out
  for (std::size_t at = 0; at < text.size();) {
    const std::int32_t found = match(text, at);
    if (found < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = patterns_[found].token;
    std::size_t start = at, stop = at + patterns_[found].text.size();
    at = stop;
    if (token.single_word && (word_before(text, start) || word_after(text, stop))) continue;
    if (token.left_strip) {
      while (start > open) {
        const std::size_t before = previous_code_point(text, start);
        if (!class_at(text, before, kSpace)) break;
        start = before;
      }
      start = std::max(start, open);
    }
    if (token.right_strip) {
      while (stop < text.size() && class_at(text, stop, kSpace)) stop += decode_utf8(text, stop).length;
    }
    if (open < start) spans.push_back({text.substr(open, start - open), -1});
    spans.push_back({text.substr(start, stop - start), token.id});
    open = stop;
  }
  if (open < text.size()) spans.push_back({text.substr(open), -1});
}

}  // namespace miq
