// Earlier results side by side: reports put together, and what changed.
//
// Models of the first report are compared with its first model. A model of a later report is compared with the first report's model of
// the same name where there is one (the same variant, measured again), else with the first model. A difference is shown only where both
// figures were made the same way (Cell::basis): the same protocol, text, windows and number type for a perplexity; the same processor,
// threads and type for a speed. Where they were not, the cell says so, and a note says what differs.
//
// A difference of perplexities is relative, 100 (b / a - 1) %. Its standard error comes from the windows' differences in loss, which is
// far smaller than those of the two perplexities: hard windows are hard for both models.
#pragma once

#include <string>
#include <vector>

#include "miq/evaluate/report_columns.h"

namespace miq {

struct NamedReport {
  std::string name;  // the file's, without its folder and ending
  Report report;
};

struct Comparison {
  Report report;                       // the models of all, their names made unique, each with its conditions
  std::vector<std::size_t> reference;  // for each model the one that it is compared with; itself where there is none
};

// REQUIRES reports not empty, each with a model.
Comparison compare_reports(std::vector<NamedReport> reports);

// The summary table with a column of differences behind each column in which anything changed.
Table comparison_table(const Comparison& comparison);

// Relative standard error of b's perplexity against a's, by their windows; 0 where it cannot be told.
double paired_relative_error(const Perplexity& a, const Perplexity& b);

std::string comparison_markdown(const Comparison& comparison);
std::string comparison_latex(const Comparison& comparison);
std::string comparison_html(const Comparison& comparison);

}  // namespace miq
