// One table row per dataset: where its file may lie, what a row of it is, how rows are joined.
#include "miq/evaluate/texts.h"

#include <filesystem>
#include <span>

#include "miq/base/blob.h"
#include "miq/base/error.h"
#include "miq/formats/compressed_file.h"
#include "miq/formats/digest.h"
#include "miq/formats/json.h"

namespace miq {
namespace {

constexpr std::string_view kWhitespace = " \t\n\r\f\v\x1c\x1d\x1e\x1f";
constexpr std::size_t kC4Pages = 1100;      // sparsegpt datautils.py::get_c4
constexpr std::int64_t kC4WindowLimit = 256;
constexpr std::size_t kMostRows = 5'000'000;  // C4's shards have 400,000
constexpr std::uint64_t kMostRowValues = 100'000;
constexpr std::string_view kPackedEndings[] = {"", ".gz", ".zst"};

bool blank(std::string_view line) { return line.find_first_not_of(kWhitespace) == std::string_view::npos; }

std::string_view stripped(std::string_view line) {
  const std::size_t begin = line.find_first_not_of(kWhitespace);
  if (begin == std::string_view::npos) return {};
  return line.substr(begin, line.find_last_not_of(kWhitespace) + 1 - begin);
}

// Rows keep their newline; blank ones are empty.
std::vector<std::string> wikitext_rows(std::string_view raw) {
  std::vector<std::string> rows = text_lines(raw);
  const bool last_ended = raw.ends_with('\n') || raw.ends_with('\r');
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (blank(rows[i])) {
      rows[i].clear();
    } else if (i + 1 < rows.size() || last_ended) {
      rows[i] += '\n';
    }
  }
  return rows;
}

std::vector<std::string> stripped_rows(std::string_view raw) {
  std::vector<std::string> rows = text_lines(raw);
  for (std::string& row : rows) row = std::string(stripped(row));
  return rows;
}

struct Dataset {
  std::string_view name;
  std::span<const std::string_view> files;
  std::vector<std::string> (*rows)(std::string_view raw);
  std::string_view gptq_separator;
  std::size_t gptq_rows;             // 0: all
  std::int64_t gptq_window_limit;    // 0: none
};

constexpr std::string_view kWikitextFiles[] = {"wikitext2/wiki.test.raw", "wikitext2/wiki.test.tokens", "wiki.test.raw",
                                               "wikitext2/wiki.test.jsonl", "wiki.test.jsonl"};
constexpr std::string_view kPtbFiles[] = {"ptb/ptb.test.txt", "ptb.test.txt", "ptb/ptb.test.jsonl", "ptb.test.jsonl"};
constexpr std::string_view kC4Files[] = {"c4/c4.utf8", "c4/c4.txt", "c4.utf8", "c4.txt", "c4/c4-validation.00000-of-00008.json",
                                         "c4-validation.00000-of-00008.json", "c4/c4.jsonl", "c4.jsonl"};
constexpr Dataset kDatasets[] = {
    {"wikitext2", kWikitextFiles, wikitext_rows, "\n\n", 0, 0},
    {"ptb", kPtbFiles, stripped_rows, " ", 0, 0},
    {"c4", kC4Files, text_lines, " ", kC4Pages, kC4WindowLimit},
};

const Dataset* find_dataset(std::string_view name) {
  for (const Dataset& dataset : kDatasets) {
    if (dataset.name == name) return &dataset;
  }
  return nullptr;
}

std::vector<std::string> file_names(const std::string& name) {
  if (const Dataset* dataset = find_dataset(name)) return {dataset->files.begin(), dataset->files.end()};
  const std::string inside = name + "/" + name;
  return {name, name + ".txt", name + ".utf8", name + ".jsonl", inside + ".txt", inside + ".utf8", inside + ".jsonl"};
}

// The file as it is named, or packed; empty where there is none.
std::string find_file(const std::filesystem::path& path) {
  std::error_code error;
  for (const std::string_view ending : kPackedEndings) {
    const std::string name = path.string() + std::string(ending);
    if (std::filesystem::is_regular_file(name, error)) return name;
  }
  return {};
}

bool is_json_lines(std::string_view path) {
  for (const std::string_view ending : {".gz", ".zst"}) {
    if (path.ends_with(ending)) path.remove_suffix(ending.size());
  }
  return path.ends_with(".jsonl") || path.ends_with(".ndjson") || path.ends_with(".json");
}

}  // namespace

std::string text_digest(std::string_view text) { return digest_of(Bytes(reinterpret_cast<const std::uint8_t*>(text.data()), text.size())); }

std::vector<std::string> text_lines(std::string_view raw) {
  std::vector<std::string> lines;
  while (!raw.empty()) {
    const std::size_t end = raw.find_first_of("\r\n");
    if (end == std::string_view::npos) {
      lines.emplace_back(raw);
      break;
    }
    lines.emplace_back(raw.substr(0, end));
    raw.remove_prefix(end + (raw.substr(end, 2) == "\r\n" ? 2 : 1));
  }
  return lines;
}

std::string prepare_text(std::string_view name, std::string_view raw, RowJoin join) {
  const Dataset* dataset = find_dataset(name);
  if (join == RowJoin::WholeFile) return std::string(raw.substr(0, raw.size() - (raw.ends_with('\n') ? 1 : 0)));
  if (dataset == nullptr) return std::string(raw);
  return join_rows(name, dataset->rows(raw), join);
}

std::string join_rows(std::string_view name, std::vector<std::string> rows, RowJoin join) {
  const Dataset* dataset = find_dataset(name);
  if (dataset != nullptr && join == RowJoin::Gptq && dataset->gptq_rows > 0 && rows.size() > dataset->gptq_rows) rows.resize(dataset->gptq_rows);
  if (join == RowJoin::SkippingBlank) std::erase_if(rows, [](const std::string& row) { return blank(row); });
  if (join == RowJoin::WholeFile) {
    for (std::string& row : rows) {
      if (row.ends_with('\n')) row.pop_back();
    }
  }
  const std::string_view separator = join == RowJoin::WholeFile                          ? "\n"
                                     : join == RowJoin::Gptq && dataset != nullptr ? dataset->gptq_separator
                                                                                   : "\n\n";
  std::size_t length = 0;
  for (const std::string& row : rows) length += row.size() + separator.size();
  std::string text;
  text.reserve(length);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (i > 0) text += separator;
    text += rows[i];
  }
  return text;
}

std::vector<std::string> json_rows(std::string_view raw, const std::string& path) {
  std::vector<std::string> rows;
  for (std::size_t number = 1; !raw.empty(); ++number) {
    const std::size_t end = std::min(raw.find('\n'), raw.size());
    const std::string_view line = raw.substr(0, end);
    raw.remove_prefix(std::min(end + 1, raw.size()));
    if (blank(line)) continue;
    const std::string where = path + ": line " + std::to_string(number);
    const Json row = parse_json(line, where, 64, kMostRowValues);
    const std::string* text = nullptr;
    for (const char* key : {"text", "sentence"}) {
      const auto found = row.is_object() ? row.find(key) : row.end();
      if (!text && found != row.end() && found->is_string()) text = found->get_ptr<const std::string*>();
    }
    if (!text) throw FormatError(where, "no object with a string 'text'", "Each line of such a file is one: {\"text\": \"...\"}");
    if (rows.size() == kMostRows) throw FormatError(where, "more than " + std::to_string(kMostRows) + " rows", "Measure on a part of it");
    rows.push_back(*text);
  }
  return rows;
}

Text load_text(const std::string& name, const std::string& path, RowJoin join) {
  const Blob file = read_text_bytes(path);
  Text text;
  text.name = name;
  text.path = path;
  text.content = is_json_lines(path) ? join_rows(name, json_rows(file.text(), path), join) : prepare_text(name, file.text(), join);
  if (text.content.empty()) throw Error(path + ": the text '" + name + "' is empty. Give a file with text in it");
  text.digest = text_digest(text.content);
  text.source_digest = text_digest(file.text());
  const Dataset* dataset = find_dataset(name);
  if (dataset != nullptr && join == RowJoin::Gptq) text.window_limit = dataset->gptq_window_limit;
  return text;
}

std::string find_text(const std::string& data_dir, const std::string& name) {
  std::string looked_for;
  for (const std::string& file : file_names(name)) {
    if (std::string found = find_file(std::filesystem::path(data_dir) / file); !found.empty()) return found;
    looked_for += (looked_for.empty() ? "" : ", ") + file;
  }
  throw UsageError("text '" + name + "' not found in " + data_dir + ". Looked for, also as .gz and .zst: " + looked_for + ". Give it as " + name + "=PATH");
}

std::vector<std::string> texts_found(const std::string& data_dir) {
  std::vector<std::string> names;
  for (const Dataset& dataset : kDatasets) {
    for (std::string_view file : dataset.files) {
      if (!find_file(std::filesystem::path(data_dir) / file).empty()) {
        names.emplace_back(dataset.name);
        break;
      }
    }
  }
  return names;
}

}  // namespace miq
