// Named ways to turn a text into one perplexity. Figures compare only under the same protocol, so every
// report states its name.
//
//   gptq       (sparsegpt, wanda, gptq --new-eval) tokens of the whole text with the special ones in front,
//              contiguous windows, tail dropped; exp of the mean over windows of the mean over their
//              seqlen - 1 targets. Standard error: of the mean over windows.
//   slicegpt   as gptq, every dataset's rows joined with a blank line, targets that are the padding token
//              (eos for Llama) ignored.
//   llama.cpp  llama-perplexity: the file as it is, less one newline at the end; windows of 512, whose
//              first token is overwritten by BOS where the vocabulary adds one; positions seqlen/2 …
//              seqlen-2 scored; exp of the mean over all scored tokens; standard error over tokens.
//   exllamav3  its eval/ppl.py: rows joined as gptq, no special token in front, windows of 2048 in order while a
//              token follows them, the first 100 unless told otherwise; exp of the mean over all tokens. Standard
//              error over tokens.
//   blocks-128 the earlier evaluation scripts: rows that are not blank joined with a blank line, windows
//              of 128 including the last short one, mean of window means.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "miq/evaluate/texts.h"
#include "miq/model/model.h"

namespace miq {

struct Window {
  std::size_t begin = 0, length = 0;  // in WindowPlan::tokens
  std::int64_t first = 0;             // positions [first, length - 1) are scored, each by the token after it
};

struct WindowPlan {
  std::vector<std::int32_t> tokens;   // of the whole text; windows do not overlap
  std::int64_t text_tokens = 0;       // number of tokens before anything was dropped
  std::vector<Window> windows;
  std::optional<std::int32_t> ignored_target;
  std::int64_t seqlen = 0;

  std::span<const std::int32_t> ids(const Window& window) const { return std::span(tokens).subspan(window.begin, window.length); }
};

struct Protocol {
  std::string_view name, summary;
  RowJoin join;
  std::int64_t seqlen;           // 0: the smaller of the model's maximum and 2048
  bool second_half;              // scores positions seqlen/2 …, and needs two windows' worth of tokens
  bool overwrite_bos;
  bool keep_short_window;        // the last one, from two tokens on
  bool ignore_padding;
  bool mean_over_tokens;         // false: mean of window means
  bool special_tokens = true;    // the tokenizer's in front of the text
  bool token_behind = false;     // a window counts only when another token follows it
  std::int64_t most_windows = 0; // 0: all; where the user names no number
};

std::span<const Protocol> protocols();
// Throws UsageError that lists the known names.
const Protocol& protocol(std::string_view name);

// `requested` 0: the protocol's default. Throws UsageError when it is under 2 or above the model's maximum.
std::int64_t window_length(const Protocol& protocol, const Config& config, std::int64_t requested);

// Tokenises `text` with the model's tokenizer and cuts windows; at most `limit` of them (0: all).
// Throws Error when the model has no tokenizer or the text is too short for one window.
WindowPlan plan_windows(const Protocol& protocol, const Model& model, const Text& text, std::int64_t seqlen, std::int64_t limit);

// What a walk made of the windows' losses.
struct Summary {
  double mean_nll = 0, perplexity = 0;
  double standard_error = 0;         // of the perplexity; 0 with a single window (gptq) or token
  std::int64_t scored = 0;           // targets that counted
  std::vector<double> window_nll;    // mean of each window
};
// `losses` holds, per window, the losses of positions [first, length - 1). Sums in order, in double.
Summary summarise(const Protocol& protocol, const WindowPlan& plan, const std::vector<std::vector<float>>& losses);

}  // namespace miq
