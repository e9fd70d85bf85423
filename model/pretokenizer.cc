// Each scanner tries the alternatives of its pattern in their order at the current position; every
// alternative looks ahead over one run of one class, and a run is consumed or skipped whole, so a text
// is read a bounded number of times.
#include "miq/model/pretokenizer.h"

#include <cstdint>

#include "miq/model/unicode.h"

namespace miq {
namespace {

constexpr std::uint8_t kEnd = 0xFF;  // class of "no more text"

class Cursor {
 public:
  explicit Cursor(std::string_view text) : text_(text) {}
  bool done(std::size_t at) const { return at >= text_.size(); }
  // Code point at `at`, its class and where the next one starts.
  struct Here {
    char32_t value;
    std::uint8_t flags;
    std::size_t next;
  };
  Here at(std::size_t offset) const {
    if (done(offset)) return {0, kEnd, offset};
    const auto byte = static_cast<std::uint8_t>(text_[offset]);
    if (byte < 0x80) return {byte, unicode_class(byte), offset + 1};
    const CodePoint point = decode_utf8(text_, offset);
    return {point.value, unicode_class(point.value), offset + point.length};
  }
  bool is(std::size_t offset, std::uint8_t flag) const { return !done(offset) && (at(offset).flags & flag) != 0; }
  // [^\s\p{L}\p{N}]
  bool is_other(std::size_t offset) const { return !done(offset) && (at(offset).flags & (kSpace | kLetter | kNumber)) == 0; }
  std::size_t skip(std::size_t offset, std::uint8_t flag, std::size_t most = ~std::size_t{0}) const {
    for (; most > 0; --most) {
      const Here here = at(offset);
      if (here.flags == kEnd || (here.flags & flag) == 0) break;
      offset = here.next;
    }
    return offset;
  }
  std::size_t skip_other(std::size_t offset) const {
    while (is_other(offset)) offset = at(offset).next;
    return offset;
  }
  char ascii(std::size_t offset) const { return done(offset) ? '\0' : text_[offset]; }

 private:
  std::string_view text_;
};

// 's|'t|'re|'ve|'m|'ll|'d at `offset`, which holds the apostrophe: its end, or `offset` if none.
std::size_t contraction(const Cursor& cursor, std::size_t offset, bool any_case) {
  const auto letter = [&](std::size_t at) -> char {
    const Cursor::Here here = cursor.at(at);
    if (here.flags == kEnd) return '\0';
    if (any_case && here.value == 0x17F) return 's';  // long s: the only other character that folds into these
    if (here.value >= 0x80) return '\0';
    const char c = static_cast<char>(here.value);
    return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  const char first = letter(offset + 1);
  const std::size_t second_at = cursor.at(offset + 1).next;
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return second_at;
  const char second = letter(second_at);
  if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l')) return second_at + 1;
  return offset;
}

// \s+(?!\S)|\s+ at `offset`, which holds a space: a run before other text leaves its last character,
// unless that is all there is.
std::size_t white_space(const Cursor& cursor, std::size_t offset) {
  std::size_t last = offset, end = offset;
  while (cursor.is(end, kSpace)) {
    last = end;
    end = cursor.at(end).next;
  }
  return cursor.done(end) || last == offset ? end : last;
}

std::size_t gpt2_word(const Cursor& cursor, std::size_t at) {
  if (cursor.ascii(at) == '\'') {
    const std::size_t end = contraction(cursor, at, false);
    if (end != at) return end;
  }
  const std::size_t start = cursor.ascii(at) == ' ' ? at + 1 : at;
  if (cursor.is(start, kLetter)) return cursor.skip(start, kLetter);
  if (cursor.is(start, kNumber)) return cursor.skip(start, kNumber);
  if (cursor.is_other(start)) return cursor.skip_other(start);
  return white_space(cursor, at);
}

std::size_t llama3_word(const Cursor& cursor, std::size_t at, std::size_t digits) {
  const auto newline = [&](std::size_t offset) { return cursor.ascii(offset) == '\r' || cursor.ascii(offset) == '\n'; };
  if (cursor.ascii(at) == '\'') {
    const std::size_t end = contraction(cursor, at, true);
    if (end != at) return end;
  }
  const Cursor::Here here = cursor.at(at);
  if ((here.flags & kLetter) != 0) return cursor.skip(at, kLetter);
  if ((here.flags & kNumber) == 0 && !newline(at) && cursor.is(here.next, kLetter)) return cursor.skip(here.next, kLetter);
  if ((here.flags & kNumber) != 0) return cursor.skip(at, kNumber, digits);
  const std::size_t start = cursor.ascii(at) == ' ' ? at + 1 : at;
  if (cursor.is_other(start)) {
    std::size_t end = cursor.skip_other(start);
    while (newline(end)) ++end;
    return end;
  }
  // \s*[\r\n]+: up to and with the last line end of the run of spaces.
  std::size_t after_newline = at;
  for (std::size_t end = at; cursor.is(end, kSpace); end = cursor.at(end).next) {
    if (newline(end)) after_newline = end + 1;
  }
  return after_newline != at ? after_newline : white_space(cursor, at);
}

template <class Word>
void scan(std::string_view text, std::vector<std::string_view>& words, Word word) {
  const Cursor cursor(text);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = word(cursor, at);
    words.push_back(text.substr(at, end - at));
    at = end;
  }
}

void scan_llama3(std::string_view text, std::vector<std::string_view>& words) {
  scan(text, words, [](const Cursor& cursor, std::size_t at) { return llama3_word(cursor, at, 3); });
}

void scan_qwen2(std::string_view text, std::vector<std::string_view>& words) {
  scan(text, words, [](const Cursor& cursor, std::size_t at) { return llama3_word(cursor, at, 1); });
}

constexpr SplitPattern kPatterns[] = {
    {"gpt-2", R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", scan_gpt2},
    {"llama-3", R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     scan_llama3},
    {"qwen2", R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     scan_qwen2},
};

}  // namespace

void scan_gpt2(std::string_view text, std::vector<std::string_view>& words) { scan(text, words, gpt2_word); }

void split_digits(std::string_view text, bool individual, std::vector<std::string_view>& words) {
  const Cursor cursor(text);
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = at;
    if (cursor.is(at, kNumber)) {
      end = cursor.skip(at, kNumber, individual ? 1 : ~std::size_t{0});
    } else {
      while (end < text.size() && !cursor.is(end, kNumber)) end = cursor.at(end).next;
    }
    words.push_back(text.substr(at, end - at));
    at = end;
  }
}

std::span<const SplitPattern> split_patterns() { return kPatterns; }

const SplitPattern* find_split_pattern_by_regex(std::string_view regex) {
  for (const SplitPattern& pattern : kPatterns) {
    if (pattern.regex == regex) return &pattern;
  }
  return nullptr;
}

const SplitPattern* find_split_pattern_by_name(std::string_view name) {
  for (const SplitPattern& pattern : kPatterns) {
    if (pattern.name == name) return &pattern;
  }
  return nullptr;
}

}  // namespace miq
