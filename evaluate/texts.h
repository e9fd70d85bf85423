// Texts that perplexity is measured on. A dataset's name selects how its file is prepared, because
// published figures depend on it; any other name is a text of its own, read whole.
//
//   name        file looked for in --data-dir (first that exists)                   rows of the file
//   wikitext2   wikitext2/wiki.test.raw, wikitext2/wiki.test.tokens, wiki.test.raw   lines; blank ones are ""
//   ptb         ptb/ptb.test.txt, ptb.test.txt                                       lines, stripped
//   c4          c4/c4.utf8, c4/c4.txt, c4.utf8, c4.txt                               one page a line
//   NAME        NAME, NAME.txt, NAME.utf8, NAME/NAME.txt, NAME/NAME.utf8             none: whole
//
// Each of these may end in .gz or .zst too, and be packed so; instead of .txt or .utf8 it may be .jsonl: a file of JSON lines,
// whose rows are the strings "text" (or "sentence", as ptb has it) of the objects, one a line. A name without a preparation of
// its own has its rows joined with a blank line then. (Files are told by their endings .jsonl, .ndjson and .json; what packed
// them is told by their first bytes.)
//
// Sources of the preparations: datasets/wikitext/wikitext.py::_generate_examples (a row keeps its leading
// space and its newline, a blank line becomes ""), sparsegpt datautils.py.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace miq {

// How a protocol puts a named dataset's rows together.
enum class RowJoin {
  Gptq,          // wikitext2 with "\n\n", ptb with " ", c4 the first 1100 pages with " "
  BlankLine,     // every dataset's rows with "\n\n"
  SkippingBlank, // as BlankLine, rows that are blank left out
  WholeFile,     // the file as it is, less one newline at its end; rows of JSON lines on lines of their own
};

struct Text {
  std::string name;      // "wikitext2", or what the user calls it
  std::string path;      // as given
  std::string content;   // prepared
  std::string digest;    // text_digest(content)
  std::string source_digest;  // text_digest(the file's unpacked bytes): recognises the file in other preparations
  std::int64_t window_limit = 0;  // 0: none. c4 with Gptq: 256
};

// XXH3-128 in hexadecimal.
std::string text_digest(std::string_view text);

// Lines without their ends; "\r\n" and "\r" end lines too (Python's universal newlines).
std::vector<std::string> text_lines(std::string_view raw);

// The text that `name` stands for, from its file's bytes. A name without a preparation of its own gives
// `raw` unchanged (RowJoin::WholeFile still takes off the last newline).
std::string prepare_text(std::string_view name, std::string_view raw, RowJoin join = RowJoin::Gptq);

// The same from rows that are known: those of JSON lines.
std::string join_rows(std::string_view name, std::vector<std::string> rows, RowJoin join);
// Rows of JSON lines; blank lines are none. Throws FormatError naming `path` and the line.
std::vector<std::string> json_rows(std::string_view raw, const std::string& path);

// Throws FormatError (unreadable) or Error (empty).
Text load_text(const std::string& name, const std::string& path, RowJoin join = RowJoin::Gptq);

// The file of `name` in `data_dir`. Throws UsageError that lists the names looked for.
std::string find_text(const std::string& data_dir, const std::string& name);

// Those of wikitext2, ptb and c4 that are in `data_dir`.
std::vector<std::string> texts_found(const std::string& data_dir);

}  // namespace miq
