// The summary table of a report, column by column: the one source of the terminal, Markdown and HTML tables.
#pragma once

#include <string>
#include <vector>

#include "miq/evaluate/report.h"

namespace miq {

struct Cell {
  std::string text;         // "22.88"
  std::string detail;       // "± 0.31", shown smaller where there is room; may be empty
  double order = 0;         // what sorting by this column compares
  bool has_value = false;   // false: nothing measured; sorts last
  bool failed = false;
  bool calibrated_on = false;  // the text also calibrated this model: marked, with a footnote
};

struct Column {
  std::string title;        // "code bits"
  std::string explanation;  // a sentence, for a legend or tooltip
  bool wide_only = false;   // left out of the terminal table
  bool text = false;        // aligned left
  std::vector<Cell> cells;  // one a model
};

// Columns of which no model has a value are left out.
std::vector<Column> report_columns(const Report& report);

// What readers need to know below the table: marks, failures, shared conditions. Plain text, one item each.
std::vector<std::string> report_notes(const Report& report);

}  // namespace miq
