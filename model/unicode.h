// UTF-8 and the few Unicode properties that tokenizers ask for. Letters and numbers are those of Unicode
// 16, as in the originals' regular expressions; other properties and normalisation come from utf8proc
// (Unicode 15 in Debian 12). Everything is linear in time on any input, but for sorting combining marks.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace miq {

// One code point of `text` at `offset`: `length` 1 to 4, or valid == false where the bytes are no
// UTF-8 (overlong, surrogate, above U+10FFFF, cut short); `length` is then the number of bytes that
// one U+FFFD stands for in Python's and Rust's lossy decoding (the maximal subpart).
struct CodePoint {
  char32_t value = 0;
  std::uint8_t length = 0;
  bool valid = false;
};
// REQUIRES: offset < text.size().
CodePoint decode_utf8(std::string_view text, std::size_t offset);
void append_utf8(std::string& out, char32_t code_point);
bool is_valid_utf8(std::string_view text);
// U+FFFD in place of every maximal bad part.
std::string replace_invalid_utf8(std::string_view text);
// `text` in single quotes for a message: bad UTF-8 and control characters replaced, cut after `limit` bytes.
std::string shown(std::string_view text, std::size_t limit = 60);

// Classes of code points as regular expressions see them.
inline constexpr std::uint8_t kLetter = 1;  // \p{L}
inline constexpr std::uint8_t kNumber = 2;  // \p{N} (Nd, Nl, No)
inline constexpr std::uint8_t kSpace = 4;   // \s: the White_Space property
inline constexpr std::uint8_t kWord = 8;    // \w: letters, marks, Nd, Nl, Pc, other alphabetics, joiners
std::uint8_t unicode_class(char32_t code_point);

enum class NormalForm { Nfc, Nfd, Nfkc, Nfkd };
// REQUIRES: valid UTF-8.
std::string unicode_normalize(std::string_view text, NormalForm form);

}  // namespace miq
