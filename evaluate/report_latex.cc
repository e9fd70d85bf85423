// A table float for a paper: booktabs rules, one row a model, standard errors small beside the values, notes below. Numbers keep the
// digits of the other tables.
#include <algorithm>

#include "miq/evaluate/report_compare.h"

namespace miq {
namespace {

struct Symbol {
  std::string_view utf8, latex;
};
// Those that our own titles and cells use; other letters are left to the document's font.
constexpr Symbol kSymbols[] = {{"±", "$\\pm$"}, {"Δ", "$\\Delta$"}, {"−", "$-$"}, {"–", "--"}, {"≠", "$\\neq$"}, {"×", "$\\times$"}, {"…", "\\ldots{}"}};

std::string escaped_character(char c) {
  switch (c) {
    case '\\': return "\\textbackslash{}";
    case '~': return "\\textasciitilde{}";
    case '^': return "\\textasciicircum{}";
    case '<': return "\\textless{}";
    case '>': return "\\textgreater{}";
    case '|': return "\\textbar{}";
    case '"': return "\\textquotedbl{}";
    case '&': case '%': case '$': case '#': case '_': case '{': case '}': return std::string("\\") + c;
    default: break;
  }
  const auto byte = static_cast<unsigned char>(c);
  return std::string(1, byte < 0x20 || byte == 0x7F ? '?' : c);
}

std::string cell_latex(const Cell& cell) {
  if (!cell.has_value && !cell.failed) return "--";
  std::string text = latex_escaped(cell.text);
  if (cell.calibrated_on) text += "$^{*}$";
  if (!cell.detail.empty()) text += " {\\scriptsize " + latex_escaped(cell.detail) + "}";
  return text;
}

// "\cmidrule" under the name of each group; empty where there is one group alone.
std::string group_rows(const std::vector<Column>& columns) {
  std::string names, rules;
  std::size_t groups = 0;
  for (std::size_t begin = 0; begin < columns.size();) {
    std::size_t end = begin;
    while (end < columns.size() && columns[end].group == columns[begin].group) ++end;
    names += begin == 0 ? "" : " & ";
    if (columns[begin].group == ColumnGroup::Model) {
      names += end - begin > 1 ? "\\multicolumn{" + std::to_string(end - begin) + "}{l}{}" : "";
    } else {
      ++groups;
      names += "\\multicolumn{" + std::to_string(end - begin) + "}{c}{" + std::string(column_group_name(columns[begin].group)) + "}";
      rules += "\\cmidrule(lr){" + std::to_string(begin + 1) + "-" + std::to_string(end) + "}";
    }
    begin = end;
  }
  return groups < 2 ? "" : "    " + names + " \\\\\n    " + rules + "\n";
}

}  // namespace

std::string latex_escaped(const std::string& text) {
  std::string result;
  for (std::size_t i = 0; i < text.size();) {
    const auto known = std::find_if(std::begin(kSymbols), std::end(kSymbols),
                                    [&](const Symbol& symbol) { return text.compare(i, symbol.utf8.size(), symbol.utf8) == 0; });
    if (known != std::end(kSymbols)) {
      result += known->latex;
      i += known->utf8.size();
    } else {
      result += escaped_character(text[i++]);
    }
  }
  return result;
}

std::string latex_text(const Table& table, const std::string& caption) {
  std::string kinds, titles;
  for (const Column& column : table.columns) {
    kinds += column.text ? 'l' : 'r';
    titles += (titles.empty() ? "" : " & ") + latex_escaped(column.title);
  }
  std::string result =
      "% needs \\usepackage{booktabs}\n\\begin{table}\n  \\centering\n  \\small\n  \\caption{" + latex_escaped(caption) + "}\n";
  if (table.columns.size() > 8) result += "  \\setlength{\\tabcolsep}{3pt}\n";
  result += "  \\begin{tabular}{@{}" + kinds + "@{}}\n    \\toprule\n" + group_rows(table.columns) + "    " + titles + " \\\\\n    \\midrule\n";
  for (std::size_t row = 0; row < table.rows; ++row) {
    std::string line;
    for (std::size_t c = 0; c < table.columns.size(); ++c) line += (c == 0 ? "" : " & ") + cell_latex(table.columns[c].cells[row]);
    result += "    " + line + " \\\\\n";
  }
  result += "    \\bottomrule\n  \\end{tabular}\n";
  if (!table.notes.empty()) {
    result += "\n  \\smallskip\n  \\begin{minipage}{\\linewidth}\\footnotesize\n";
    for (const std::string& note : table.notes) result += "    " + latex_escaped(note) + "\\\\\n";
    result.resize(result.size() - 3);  // the last line break
    result += "\n  \\end{minipage}\n";
  }
  return result + "\\end{table}\n";
}

std::string report_latex(const Report& report) {
  return latex_text(summary_table(report), "Evaluation of " + std::to_string(report.models.size()) +
                                               (report.models.size() == 1 ? " model" : " models") + ", protocol " + report.protocol);
}

std::string comparison_latex(const Comparison& comparison) {
  return latex_text(comparison_table(comparison), "Comparison of " + std::to_string(comparison.report.models.size()) + " results");
}

}  // namespace miq
