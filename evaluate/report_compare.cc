// Differences are taken between the cells of the summary table, so that a metric that gets a column gets its difference too.
#include "miq/evaluate/report_compare.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>

namespace miq {
namespace {

bool same_conditions(const Conditions& a, const Conditions& b) {
  return a.version == b.version && a.torch_version == b.torch_version && a.device == b.device && a.device_name == b.device_name &&
         a.dtype == b.dtype && a.threads == b.threads;
}

std::string signed_text(double value, const std::string& text) {
  return value > 0 ? "+" + text : value < 0 ? "−" + text : text;
}

Cell change_cell(const Column& column, const Cell& from, const Cell& to) {
  Cell cell;
  cell.has_value = true;
  const double difference = to.order - from.order;
  switch (column.change) {
    case Change::Percent: cell.order = from.order != 0 ? 100 * (to.order / from.order - 1) : 0; break;
    case Change::Difference: cell.order = difference; break;
    case Change::Points: cell.order = 100 * difference; break;
  }
  const double size = std::fabs(cell.order);
  const std::string unit = column.change == Change::Percent ? " %" : column.change == Change::Points ? " pp" : "";
  // Two decimals tell what matters; a change below them is still a change.
  const bool tiny = size > 0 && size < 0.005;
  char text[64];
  std::snprintf(text, sizeof text, size >= 1000 ? "%.0f" : "%.2f", size);
  cell.text = size == 0 ? "0" : signed_text(cell.order, tiny ? "0.00" : text) + unit;
  return cell;
}

std::string shortened(const std::string& value) { return value.empty() ? "not recorded" : value.substr(0, 12) + (value.size() > 12 ? "…" : ""); }

// "protocol gptq and llama.cpp; dtype bfloat16 and float32"
std::string basis_difference(const Basis& a, const Basis& b) {
  std::string text;
  const auto value_of = [](const Basis& basis, const std::string& what) {
    const auto found = std::find_if(basis.begin(), basis.end(), [&](const auto& entry) { return entry.first == what; });
    return found == basis.end() ? std::string() : found->second;
  };
  Basis all = b;
  for (const auto& entry : a) {
    if (std::none_of(b.begin(), b.end(), [&](const auto& other) { return other.first == entry.first; })) all.push_back(entry);
  }
  for (const auto& [what, ignored] : all) {
    const std::string value = value_of(b, what), against = value_of(a, what);
    if (against != value) text += (text.empty() ? "" : "; ") + what + " " + shortened(value) + " against " + shortened(against);
  }
  return text;
}

const Perplexity* perplexity_of(const ModelReport& model, const std::string& text) {
  const auto found = std::find_if(model.perplexity.begin(), model.perplexity.end(), [&](const Perplexity& p) { return p.text == text; });
  return found == model.perplexity.end() || found->failed() ? nullptr : &*found;
}

struct Notes {
  std::vector<std::string> lines;
  void add(std::string line) {
    if (std::find(lines.begin(), lines.end(), line) == lines.end()) lines.push_back(std::move(line));
  }
};

Column change_column(const Comparison& comparison, const Column& column, Notes& notes) {
  Column made{.title = "Δ " + column.title, .explanation = "Change of " + column.title + " against the model compared with",
              .wide_only = column.wide_only, .group = column.group, .change = column.change, .is_change = true};
  for (std::size_t row = 0; row < column.cells.size(); ++row) {
    const std::size_t reference = comparison.reference[row];
    const Cell &from = column.cells[reference], &to = column.cells[row];
    Cell& cell = made.cells.emplace_back();
    if (reference == row || !from.has_value || !to.has_value) continue;
    const std::string differs = basis_difference(from.basis, to.basis);
    if (!differs.empty()) {
      cell.text = "≠";
      cell.failed = true;
      notes.add("≠ " + column.title + " of " + comparison.report.models[row].name + " does not compare with that of " +
                comparison.report.models[reference].name + ": " + differs + ".");
      continue;
    }
    cell = change_cell(column, from, to);
    if (column.group != ColumnGroup::Perplexity) continue;
    const Perplexity *a = perplexity_of(comparison.report.models[reference], column.title),
                     *b = perplexity_of(comparison.report.models[row], column.title);
    const double error = a != nullptr && b != nullptr ? 100 * paired_relative_error(*a, *b) : 0;
    if (error > 0) cell.detail = "± " + figure_text(error, 2) + " %";
  }
  return made;
}

// What `name` becomes where another model has it already.
std::string unique_name(const std::string& name, const std::string& source, std::set<std::string>& taken) {
  std::string made = name;
  if (taken.contains(made)) made = name + " (" + source + ")";
  for (int number = 2; taken.contains(made); ++number) made = name + " (" + source + " " + std::to_string(number) + ")";
  taken.insert(made);
  return made;
}

}  // namespace

Comparison compare_reports(std::vector<NamedReport> reports) {
  Comparison made;
  made.report = reports.front().report;
  made.report.models.clear();
  std::set<std::string> taken;
  std::vector<std::string> first_names;
  for (const ModelReport& model : reports.front().report.models) first_names.push_back(model.name);
  bool same = true;
  for (std::size_t r = 0; r < reports.size(); ++r) {
    for (ModelReport& model : reports[r].report.models) {
      std::size_t reference = 0;
      if (r > 0) {
        const auto found = std::find(first_names.begin(), first_names.end(), model.name);
        if (found != first_names.end()) reference = static_cast<std::size_t>(found - first_names.begin());
      }
      model.conditions = reports[r].report.conditions_of(model);
      same = same && same_conditions(*model.conditions, made.report);
      model.name = unique_name(model.name, reports[r].name, taken);
      made.reference.push_back(reference);
      made.report.models.push_back(std::move(model));
    }
    if (reports[r].report.protocol != made.report.protocol) made.report.protocol = "each its own";
  }
  if (same) {
    for (ModelReport& model : made.report.models) model.conditions.reset();
  }
  return made;
}

double paired_relative_error(const Perplexity& a, const Perplexity& b) {
  const std::vector<double>&x = a.summary.window_nll, &y = b.summary.window_nll;
  if (x.size() != y.size() || x.size() < 2) return 0;
  double mean = 0, squares = 0;
  for (std::size_t i = 0; i < x.size(); ++i) mean += y[i] - x[i];
  mean /= static_cast<double>(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) squares += (y[i] - x[i] - mean) * (y[i] - x[i] - mean);
  const auto n = static_cast<double>(x.size());
  const double error = std::sqrt(squares / (n - 1) / n) * b.summary.perplexity / a.summary.perplexity;
  return std::isfinite(error) ? error : 0;
}

Table comparison_table(const Comparison& comparison) {
  Table table{{}, report_notes(comparison.report), comparison.report.models.size()};
  Notes notes;
  std::vector<std::string> unchanged;
  for (Column& column : report_columns(comparison.report)) {
    const bool figures = !column.text;
    Column change = figures ? change_column(comparison, column, notes) : Column{};
    const auto has = [&](auto test) { return std::any_of(change.cells.begin(), change.cells.end(), test); };
    const bool compared = has([](const Cell& cell) { return cell.has_value; });
    const bool changed = has([](const Cell& cell) { return cell.failed || (cell.has_value && cell.order != 0); });
    if (figures && compared && !changed) unchanged.push_back(column.title);
    table.columns.push_back(std::move(column));
    if (figures && changed) table.columns.push_back(std::move(change));
  }
  std::set<std::size_t> references;
  for (std::size_t row = 1; row < comparison.reference.size(); ++row) references.insert(comparison.reference[row]);
  if (references.size() > 1) {
    Column against{.title = "against", .explanation = "The model that the row is compared with", .text = true};
    for (std::size_t row = 0; row < table.rows; ++row) {
      const std::size_t reference = comparison.reference[row];
      Cell& cell = against.cells.emplace_back();
      cell.has_value = true;
      cell.text = reference == row ? "" : comparison.report.models[reference].name;
    }
    table.columns.insert(table.columns.begin() + 1, std::move(against));
  } else if (!references.empty()) {
    notes.add("Δ: change against " + comparison.report.models[*references.begin()].name +
              "; ± of a perplexity's is the standard error over the windows' differences.");
  }
  if (references.size() > 1)
    notes.add("Δ: change against the model named; ± of a perplexity's is the standard error over the windows' differences.");
  if (!unchanged.empty()) {
    std::string list;
    for (const std::string& title : unchanged) list += (list.empty() ? "" : ", ") + title;
    notes.add("Unchanged: " + list + (list.ends_with('.') ? "" : "."));
  }
  table.notes.insert(table.notes.begin(), notes.lines.begin(), notes.lines.end());
  return table;
}

std::string comparison_markdown(const Comparison& comparison) {
  return "# Comparison\n\n" + markdown_text(comparison_table(comparison)) + "\n" + models_markdown(comparison.report);
}

}  // namespace miq
