// Terminal and Markdown tables from the shared columns. Widths are counted in code points: names with
// wide characters may stand a little out of line, nothing worse.
#include <algorithm>

#include "miq/evaluate/report_columns.h"
#include "miq/evaluate/report_command.h"

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

std::string cell_text(const Cell& cell, bool markdown) {
  if (!cell.has_value && !cell.failed) return markdown ? "–" : "-";
  std::string text = markdown ? markdown_escaped(cell.text) : printable(cell.text);
  if (markdown && !cell.detail.empty()) text += " " + cell.detail;
  if (cell.calibrated_on) text += markdown ? "\\*" : "*";
  return text;
}

// Titles and cells of one column as they are printed, all of one width.
std::vector<std::string> printed_column(const Column& column) {
  std::vector<std::string> made{printable(column.title)};
  for (const Cell& cell : column.cells) {
    made.push_back(cell_text(cell, false));
    if (!column.text && !cell.calibrated_on) made.back() += " ";  // keeps digits in line under a mark
  }
  if (!column.text) made.front() += " ";
  std::size_t widest = 0;
  for (const std::string& text : made) widest = std::max(widest, width(text));
  for (std::string& text : made) text = padded(text, widest, column.text);
  return made;
}

void add_block(std::string& result, const std::vector<const std::vector<std::string>*>& columns) {
  for (std::size_t row = 0; row < columns.front()->size(); ++row) {
    std::string line;
    for (const auto* column : columns) line += (line.empty() ? "" : " ") + (*column)[row];
    const std::size_t whole = width(line);
    while (line.ends_with(' ')) line.pop_back();
    result += line + "\n";
    if (row > 0) continue;
    for (std::size_t i = 0; i < whole; ++i) result += "─";
    result += "\n";
  }
}

// Commands stand in a fence: nothing in them may end it.
std::string code_text(const std::string& command) {
  std::string text = printable(command);
  std::replace(text.begin(), text.end(), '`', '?');
  return text;
}

std::string inline_json(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

}  // namespace

std::string markdown_escaped(const std::string& text) {
  std::string result;
  for (char c : printable(text)) {
    if (std::string_view("\\`*_{}[]<>|#!").find(c) != std::string_view::npos) result += '\\';
    result += c;
  }
  return result;
}

std::string terminal_text(const Table& table, std::size_t most) {
  std::vector<std::vector<std::string>> columns;
  for (const Column& column : table.columns) {
    if (!column.wide_only) columns.push_back(printed_column(column));
  }
  std::string result;
  std::vector<const std::vector<std::string>*> block;
  std::size_t used = 0;
  const auto begin = [&] {
    block = {&columns.front()};  // the models' names
    used = width(columns.front().front());
  };
  if (!columns.empty()) begin();
  for (std::size_t c = 1; c < columns.size(); ++c) {
    const std::size_t needs = 1 + width(columns[c].front());
    if (used + needs > most && block.size() > 1) {
      add_block(result, block);
      result += "\n";
      begin();
    }
    block.push_back(&columns[c]);
    used += needs;
  }
  if (!block.empty()) add_block(result, block);
  result += "\n";
  for (const std::string& note : table.notes) result += printable(note) + "\n";
  return result;
}

std::string markdown_text(const Table& table) {
  std::string result = "|", rule = "|";
  for (const Column& column : table.columns) {
    result += " " + markdown_escaped(column.title) + " |";
    rule += column.text ? " --- |" : " ---: |";
  }
  result += "\n" + rule + "\n";
  for (std::size_t row = 0; row < table.rows; ++row) {
    result += "|";
    for (const Column& column : table.columns) result += " " + cell_text(column.cells[row], true) + " |";
    result += "\n";
  }
  result += "\n";
  for (const std::string& note : table.notes) result += "- " + markdown_escaped(note) + "\n";
  return result;
}

std::string report_table(const Report& report, bool markdown) {
  const Table table = summary_table(report);
  return markdown ? markdown_text(table) : terminal_text(table);
}

std::string report_markdown(const Report& report) { return "# Evaluation\n\n" + report_table(report, true) + "\n" + models_markdown(report); }

std::string models_markdown(const Report& report) {
  std::string text = "## Models\n";
  for (const ModelReport& model : report.models) {
    text += "\n### " + markdown_escaped(model.name) + "\n\n";
    const auto row = [&](const std::string& what, const std::string& value) {
      text += "- " + what + ": " + markdown_escaped(value) + "\n";
    };
    if (!model.method.empty()) row("method", inline_json(model.method));
    if (!model.calibration.empty()) row("calibration", inline_json(model.calibration));
    if (!model.source.empty()) row("source", inline_json(model.source));
    row("weights digest", model.digest);
    row("architecture", model.architecture + ", " + std::to_string(model.layers) + " layers, hidden size " + std::to_string(model.hidden) +
                            ", vocabulary " + std::to_string(model.vocabulary));
    if (model.size) row("bits a parameter over the whole model", figure_text(model.size->model_bits, 3));
    if (model.parameters) {
      std::string parts;
      for (const auto& [part, count] : model.parameters->by_part)
        parts += (parts.empty() ? "" : ", ") + std::string(part_name(part)) + " " + std::to_string(count);
      row("parameters by part", parts);
    }
    text += "\nTo make it again:\n\n```sh\n";
    for (const std::string& command : reproduce_commands(report, model)) text += code_text(command) + "\n";
    text += "```\n";
  }
  return text;
}

}  // namespace miq
