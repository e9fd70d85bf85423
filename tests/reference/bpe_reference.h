// Naive oracles for the tokenizers: quadratic loops over lists, in the words of the definitions.
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace miq::reference {

// Byte-pair encoding: while any neighbours have a merge, merge the pair of lowest rank, the leftmost first.
inline std::vector<std::string> bpe(std::vector<std::string> symbols, const std::vector<std::pair<std::string, std::string>>& merges) {
  std::map<std::pair<std::string, std::string>, std::size_t> rank;
  for (std::size_t i = 0; i < merges.size(); ++i) rank[merges[i]] = i;
  while (true) {
    std::size_t best = merges.size(), place = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto at = rank.find({symbols[i], symbols[i + 1]});
      if (at != rank.end() && at->second < best) best = at->second, place = i;
    }
    if (best == merges.size()) return symbols;
    symbols[place] += symbols[place + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

// Every match of `pattern` in turn, by PCRE2. The pattern must match at every position.
inline std::vector<std::string> matches(std::string_view pattern, std::string_view text) {
  int error = 0;
  PCRE2_SIZE where = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP, &error, &where, nullptr);
  if (code == nullptr) throw std::runtime_error("pattern does not compile");
  pcre2_match_data* data = pcre2_match_data_create_from_pattern(code, nullptr);
  std::vector<std::string> out;
  for (std::size_t at = 0; at < text.size();) {
    const int count = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at, PCRE2_ANCHORED, data, nullptr);
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data);
    if (count <= 0 || span[1] <= at) throw std::runtime_error("pattern does not match at " + std::to_string(at));
    out.emplace_back(text.substr(at, span[1] - at));
    at = span[1];
  }
  pcre2_match_data_free(data);
  pcre2_code_free(code);
  return out;
}

}  // namespace miq::reference
