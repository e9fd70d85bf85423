// What the task definitions of lm-evaluation-harness do to strings, as Python does it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace miq {

// str.isspace of one code point: White_Space and U+001C … U+001F.
bool python_space(char32_t code_point);
// Bytes of the white space at the end of `text` that str.rstrip takes off. REQUIRES: valid UTF-8, as below.
std::size_t trailing_space(std::string_view text);
std::string_view python_strip(std::string_view text);
std::string_view python_lstrip(std::string_view text);
// len(text): code points.
std::int64_t python_length(std::string_view text);
// str.capitalize: the first letter as in a title, the others small. The 48 letters whose title form is several letters ("ß", "ﬁ")
// keep the simple form.
std::string python_capitalize(std::string_view text);
// tasks/hellaswag/utils.py::preprocess: stripped, " [title]" to ". ", "[…]" left out, double spaces to one.
std::string hellaswag_cleaned(std::string_view text);

}  // namespace miq
