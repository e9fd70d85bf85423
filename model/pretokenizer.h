// Cutting text into words before byte-pair encoding. The patterns of known tokenizers are hand-written
// scanners, linear in time; a pattern found in a file is looked up by its text and never compiled.
#pragma once

#include <span>
#include <string_view>
#include <vector>

namespace miq {

// Appends the words of `text` (valid UTF-8) to `words`; together they are the text.
using Scanner = void (*)(std::string_view text, std::vector<std::string_view>& words);

struct SplitPattern {
  std::string_view name;   // as in reports and errors
  std::string_view regex;  // the exact text in tokenizer.json's Split pre-tokenizers; also what `scan` does
  Scanner scan;
};

// gpt-2, llama-3, qwen2.
std::span<const SplitPattern> split_patterns();
const SplitPattern* find_split_pattern_by_regex(std::string_view regex);
const SplitPattern* find_split_pattern_by_name(std::string_view name);

void scan_gpt2(std::string_view text, std::vector<std::string_view>& words);
// Every number character (\p{N}) apart when `individual`, else runs of them; what lies between, whole.
void split_digits(std::string_view text, bool individual, std::vector<std::string_view>& words);

}  // namespace miq
