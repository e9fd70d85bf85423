// Case mappings are utf8proc's simple ones, with Python's two exceptions among the small letters: a capital I with a dot gives two code
// points, and a sigma at a word's end is the final one. Everything is linear in time on any input.
#include "miq/evaluate/zeroshot_text.h"

#include <utf8proc.h>

#include <algorithm>

#include "miq/model/unicode.h"

namespace miq {
namespace {

constexpr char32_t kSigma = 0x3A3, kFinalSigma = 0x3C2, kDottedI = 0x130;

bool letter(char32_t code_point) { return (unicode_class(code_point) & kLetter) != 0; }

// Every occurrence of `from`, left to right, not overlapping.
std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  while (true) {
    const std::size_t found = text.find(from);
    result += text.substr(0, found);
    if (found == std::string_view::npos) return result;
    result += to;
    text.remove_prefix(found + from.size());
  }
}

// re.sub(r"\[.*?\]", "", text): from a bracket to the next closing one in its line.
std::string without_brackets(std::string_view text) {
  std::string result;
  while (true) {
    const std::size_t open = text.find('[');
    const std::size_t end = open == std::string_view::npos ? open : text.find_first_of("]\n", open);
    if (end == std::string_view::npos) return result += text;
    result += text.substr(0, text[end] == ']' ? open : end + 1);
    text.remove_prefix(end + 1);
  }
}

}  // namespace

bool python_space(char32_t code_point) {
  return (code_point >= 0x1C && code_point <= 0x1F) || (unicode_class(code_point) & kSpace) != 0;
}

std::size_t trailing_space(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    std::size_t begin = end - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    if (!python_space(decode_utf8(text, begin).value)) break;
    end = begin;
  }
  return text.size() - end;
}

std::string_view python_lstrip(std::string_view text) {
  while (!text.empty()) {
    const CodePoint first = decode_utf8(text, 0);
    if (!python_space(first.value)) break;
    text.remove_prefix(first.length);
  }
  return text;
}

std::string_view python_strip(std::string_view text) {
  text.remove_suffix(trailing_space(text));
  return python_lstrip(text);
}

std::int64_t python_length(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

std::string python_capitalize(std::string_view text) {
  std::string result;
  bool after_letter = false;
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint point = decode_utf8(text, at);
    const auto value = static_cast<utf8proc_int32_t>(point.value);
    const std::size_t next = at + point.length;
    if (at == 0) {
      append_utf8(result, static_cast<char32_t>(utf8proc_totitle(value)));
    } else if (point.value == kDottedI) {
      result += "i\xCC\x87";
    } else if (point.value == kSigma && after_letter && (next >= text.size() || !letter(decode_utf8(text, next).value))) {
      append_utf8(result, kFinalSigma);
    } else {
      append_utf8(result, static_cast<char32_t>(utf8proc_tolower(value)));
    }
    after_letter = letter(point.value);
    at = next;
  }
  return result;
}

std::string hellaswag_cleaned(std::string_view text) {
  return replaced(without_brackets(replaced(python_strip(text), " [title]", ". ")), "  ", " ");
}

}  // namespace miq
