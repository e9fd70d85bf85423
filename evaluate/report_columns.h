// The summary table of a report, column by column: the one source of the terminal, Markdown, LaTeX and HTML tables.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "miq/evaluate/report.h"

namespace miq {

// What a figure depends on beside the model: two that differ in any of it do not compare. {"protocol", "gptq"}, …
using Basis = std::vector<std::pair<std::string, std::string>>;

struct Cell {
  std::string text;         // "22.88"
  std::string detail;       // "± 0.31", shown smaller where there is room; may be empty
  double order = 0;         // what sorting by this column compares
  bool has_value = false;   // false: nothing measured; sorts last
  bool failed = false;
  bool calibrated_on = false;  // the text also calibrated this model: marked, with a footnote
  Basis basis = {};
};

// Columns of one group stand side by side under its name.
enum class ColumnGroup { Model, Perplexity, Divergence, Accuracy, Size, Cost };
std::string_view column_group_name(ColumnGroup group);  // "", "Perplexity", …

enum class Change { Percent, Difference, Points };  // how two cells of a column are compared; Points: shares, in percentage points

struct Column {
  std::string title;        // "code bits"
  std::string explanation;  // a sentence, for a legend or tooltip
  bool wide_only = false;   // left out of the terminal table
  bool text = false;        // aligned left
  std::vector<Cell> cells = {};  // one a model
  ColumnGroup group = ColumnGroup::Model;
  Change change = Change::Percent;
  bool is_change = false;   // of the column before it, in a comparison
};

// What is printed: columns with as many cells as there are rows, and what readers need to know below.
struct Table {
  std::vector<Column> columns;
  std::vector<std::string> notes;  // plain text, one item each
  std::size_t rows = 0;
};

// Columns of which no model has a value are left out.
std::vector<Column> report_columns(const Report& report);
// Marks, failures, shared conditions.
std::vector<std::string> report_notes(const Report& report);
Table summary_table(const Report& report);

// For the terminal, at most `width` columns wide where the names allow it: what does not fit goes to a second table below.
std::string terminal_text(const Table& table, std::size_t width = 100);
std::string markdown_text(const Table& table);
// A card a model: method, digests, the commands that would make it again.
std::string models_markdown(const Report& report);
// A booktabs table float with its caption; standard errors beside the values.
std::string latex_text(const Table& table, const std::string& caption);
// Sortable; `id` begins the ids of its notes.
std::string table_html(const Table& table, const std::string& id);

// Characters with a meaning of their own in the format escaped; control characters as '?'.
std::string markdown_escaped(const std::string& text);
std::string latex_escaped(const std::string& text);

}  // namespace miq
