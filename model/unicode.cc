// UTF-8 by the table of well-formed byte sequences (Unicode 3.9, table 3-7). Classes are one byte per
// code point, filled once from utf8proc's categories. Normalisation decomposes code point by code
// point, orders each run of combining marks with a stable sort and lets utf8proc compose: its own
// ordering is an insertion sort, quadratic on long runs of marks.
#include "miq/model/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>

namespace miq {
namespace {

constexpr char32_t kLast = 0x10FFFF;
constexpr char32_t kReplacement = 0xFFFD;

bool is_white_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

// Code points that are Alphabetic without being letters, marks or Nl: circled and squared letters.
bool is_other_alphabetic(char32_t c) {
  return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

// Letters and numbers that Unicode 15.1 and 16 added: the originals' regular expressions (Oniguruma in
// tokenizers 0.23) know them, Debian 12's utf8proc does not.
struct Range {
  char32_t first, last;
};
constexpr Range kNewLetters[] = {{0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3}, {0x10D4A, 0x10D65},
                                 {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x11380, 0x11389}, {0x1138B, 0x1138B}, {0x1138E, 0x1138E},
                                 {0x11390, 0x113B5}, {0x113B7, 0x113B7}, {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0},
                                 {0x13460, 0x143FA}, {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED},
                                 {0x1E5F0, 0x1E5F0}, {0x2EBF0, 0x2EE5D}};
constexpr Range kNewNumbers[] = {{0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9}, {0x16130, 0x16139},
                                 {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9}, {0x1E5F1, 0x1E5FA}};

std::uint8_t compute_class(char32_t c) {
  std::uint8_t flags = is_white_space(c) ? kSpace : 0;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return flags | kLetter | kWord;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
      return flags | kNumber | kWord;
    case UTF8PROC_CATEGORY_NO:
      return flags | kNumber;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_PC:
      return flags | kWord;
    default:
      return is_other_alphabetic(c) || c == 0x200C || c == 0x200D ? flags | kWord : flags;
  }
}

const std::vector<std::uint8_t>& classes() {
  static const std::vector<std::uint8_t> table = [] {
    std::vector<std::uint8_t> made(kLast + 1);
    for (char32_t c = 0; c <= kLast; ++c) made[c] = compute_class(c);
    for (const Range& range : kNewLetters) std::fill(made.begin() + range.first, made.begin() + range.last + 1, kLetter | kWord);
    for (const Range& range : kNewNumbers) std::fill(made.begin() + range.first, made.begin() + range.last + 1, kNumber | kWord);
    return made;
  }();
  return table;
}

struct Mark {
  utf8proc_int32_t value;
  int combining_class;
};

void order_marks(std::vector<Mark>& marks, std::vector<utf8proc_int32_t>& out) {
  std::stable_sort(marks.begin(), marks.end(), [](const Mark& a, const Mark& b) { return a.combining_class < b.combining_class; });
  for (const Mark& mark : marks) out.push_back(mark.value);
  marks.clear();
}

}  // namespace

CodePoint decode_utf8(std::string_view text, std::size_t offset) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[offset + i]); };
  const std::uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  if (lead < 0xC2 || lead > 0xF4) return {kReplacement, 1, false};
  const int length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  char32_t value = lead & (0x7F >> length);
  for (int i = 1; i < length; ++i) {
    if (offset + i >= text.size()) return {kReplacement, static_cast<std::uint8_t>(i), false};
    const std::uint8_t next = byte(i);
    std::uint8_t low = 0x80, high = 0xBF;
    if (i == 1) {
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    }
    if (next < low || next > high) return {kReplacement, static_cast<std::uint8_t>(i), false};
    value = (value << 6) | (next & 0x3F);
  }
  return {value, static_cast<std::uint8_t>(length), true};
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | (c >> 6));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | (c >> 12));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (c >> 18));
    out += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

bool is_valid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const CodePoint point = decode_utf8(text, i);
    if (!point.valid) return false;
    i += point.length;
  }
  return true;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const CodePoint point = decode_utf8(text, i);
    if (point.valid) {
      out.append(text.substr(i, point.length));
    } else {
      append_utf8(out, kReplacement);
    }
    i += point.length;
  }
  return out;
}

std::string shown(std::string_view text, std::size_t limit) {
  std::string out = "'";
  for (std::size_t i = 0; i < text.size() && i < limit;) {
    const CodePoint point = decode_utf8(text, i);
    if (point.valid && point.value >= 0x20 && point.value != 0x7F && (point.value < 0x80 || point.value > 0x9F)) {
      out.append(text.substr(i, point.length));
    } else {
      append_utf8(out, kReplacement);
    }
    i += point.length;
  }
  return out + (text.size() > limit ? "…'" : "'");
}

std::uint8_t unicode_class(char32_t code_point) {
  static const std::vector<std::uint8_t>& table = classes();
  return code_point <= kLast ? table[code_point] : 0;
}

std::string unicode_normalize(std::string_view text, NormalForm form) {
  const bool compose = form == NormalForm::Nfc || form == NormalForm::Nfkc;
  const bool compat = form == NormalForm::Nfkc || form == NormalForm::Nfkd;
  // Nothing below U+0300 changes under NFC (nor ASCII under any form): most text ends here.
  const bool quick = form == NormalForm::Nfc
                         ? std::all_of(text.begin(), text.end(), [](char c) { return static_cast<std::uint8_t>(c) < 0xCC; })
                         : std::all_of(text.begin(), text.end(), [](char c) { return static_cast<std::uint8_t>(c) < 0x80; });
  if (quick) return std::string(text);

  const auto options =
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compat ? UTF8PROC_COMPAT : 0));
  const auto decompose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  std::vector<Mark> marks;
  std::array<utf8proc_int32_t, 64> parts{};
  int boundary = 0;
  for (std::size_t i = 0; i < text.size();) {
    const CodePoint point = decode_utf8(text, i);
    i += point.length;
    const auto value = static_cast<utf8proc_int32_t>(point.value);
    const auto count = utf8proc_decompose_char(value, parts.data(), parts.size(), decompose, &boundary);
    for (utf8proc_ssize_t k = 0; k < count; ++k) {
      const int combining = utf8proc_get_property(parts[k])->combining_class;
      if (combining == 0) {
        order_marks(marks, points);
        points.push_back(parts[k]);
      } else {
        marks.push_back({parts[k], combining});
      }
    }
  }
  order_marks(marks, points);
  if (compose) points.resize(std::max<utf8proc_ssize_t>(0, utf8proc_normalize_utf32(points.data(), points.size(), options)));
  std::string out;
  out.reserve(text.size());
  for (utf8proc_int32_t c : points) append_utf8(out, static_cast<char32_t>(c));
  return out;
}

}  // namespace miq
