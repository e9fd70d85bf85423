// Terminal and Markdown tables from the shared columns. Widths are counted in code points: names with
// wide characters may stand a little out of line, nothing worse.
#include <algorithm>

#include "miq/evaluate/report_columns.h"

namespace miq {
namespace {

std::size_t width(const std::string& text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string padded(const std::string& text, std::size_t columns, bool left) {
  const std::size_t has = width(text);
  const std::string space(columns > has ? columns - has : 0, ' ');
  return left ? text + space : space + text;
}

// Control characters (a name from a file may hold anything) would move the terminal's cursor.
std::string printable(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return text;
}

std::string markdown_escaped(const std::string& text) {
  std::string result;
  for (char c : printable(text)) {
    if (std::string_view("\\`*_{}[]<>|#!").find(c) != std::string_view::npos) result += '\\';
    result += c;
  }
  return result;
}

std::string cell_text(const Cell& cell, bool markdown) {
  if (!cell.has_value && !cell.failed) return markdown ? "–" : "-";
  std::string text = markdown ? markdown_escaped(cell.text) : printable(cell.text);
  if (markdown && !cell.detail.empty()) text += " " + cell.detail;
  if (cell.calibrated_on) text += markdown ? "\\*" : "*";
  return text;
}

std::string terminal_table(const std::vector<Column>& columns, std::size_t rows) {
  std::string result;
  std::vector<std::vector<std::string>> texts;
  std::vector<std::size_t> widths;
  for (const Column& column : columns) {
    std::vector<std::string> made{printable(column.title)};
    for (const Cell& cell : column.cells) {
      made.push_back(cell_text(cell, false));
      if (!column.text && !cell.calibrated_on) made.back() += " ";  // keeps digits in line under a mark
    }
    if (!column.text) made.front() += " ";
    std::size_t widest = 0;
    for (const std::string& text : made) widest = std::max(widest, width(text));
    widths.push_back(widest);
    texts.push_back(std::move(made));
  }
  for (std::size_t row = 0; row <= rows; ++row) {
    std::string line;
    for (std::size_t c = 0; c < columns.size(); ++c) line += (c == 0 ? "" : " ") + padded(texts[c][row], widths[c], columns[c].text);
    while (line.ends_with(' ')) line.pop_back();
    result += line + "\n";
    if (row > 0) continue;
    std::size_t total = columns.size() - 1;
    for (std::size_t w : widths) total += w;
    for (std::size_t i = 0; i < total; ++i) result += "─";
    result += "\n";
  }
  return result;
}

std::string markdown_table(const std::vector<Column>& columns, std::size_t rows) {
  std::string result = "|", rule = "|";
  for (const Column& column : columns) {
    result += " " + markdown_escaped(column.title) + " |";
    rule += column.text ? " --- |" : " ---: |";
  }
  result += "\n" + rule + "\n";
  for (std::size_t row = 0; row < rows; ++row) {
    result += "|";
    for (const Column& column : columns) result += " " + cell_text(column.cells[row], true) + " |";
    result += "\n";
  }
  return result;
}

std::string inline_json(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

}  // namespace

std::string report_table(const Report& report, bool markdown) {
  std::vector<Column> columns = report_columns(report);
  std::string result;
  if (!markdown) std::erase_if(columns, [](const Column& column) { return column.wide_only; });
  result = markdown ? markdown_table(columns, report.models.size()) : terminal_table(columns, report.models.size());
  result += "\n";
  for (const std::string& note : report_notes(report)) result += markdown ? "- " + markdown_escaped(note) + "\n" : printable(note) + "\n";
  return result;
}

std::string report_markdown(const Report& report) {
  std::string text = "# Evaluation\n\n" + report_table(report, true) + "\n## Models\n";
  for (const ModelReport& model : report.models) {
    text += "\n### " + markdown_escaped(model.name) + "\n\n";
    const auto row = [&](const std::string& what, const std::string& value) {
      text += "- " + what + ": " + markdown_escaped(value) + "\n";
    };
    row("method", inline_json(model.method));
    if (!model.calibration.empty()) row("calibration", inline_json(model.calibration));
    if (!model.source.empty()) row("source", inline_json(model.source));
    row("weights digest", model.digest);
    row("architecture", model.architecture + ", " + std::to_string(model.layers) + " layers, hidden size " + std::to_string(model.hidden) +
                            ", vocabulary " + std::to_string(model.vocabulary));
    if (model.size) row("bits a parameter over the whole model", figure_text(model.size->model_bits, 3));
    if (!model.parameters) continue;
    std::string parts;
    for (const auto& [part, count] : model.parameters->by_part)
      parts += (parts.empty() ? "" : ", ") + std::string(part_name(part)) + " " + std::to_string(count);
    row("parameters by part", parts);
  }
  return text;
}

}  // namespace miq
