// The summary table of the page: groups of columns under their names, the first column in view while the others scroll, sorted by a
// click on a title. What sorting compares stands in each cell.
#include <cstdio>

#include "miq/evaluate/report_columns.h"
#include "miq/evaluate/svg.h"

namespace miq {
namespace {

std::string exact(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

std::string css_of(const Column& column, bool begins_group) {
  std::string css = column.text ? "text" : "";
  if (column.is_change) css += css.empty() ? "change" : " change";
  if (begins_group) css += css.empty() ? "begin" : " begin";
  return css.empty() ? "" : " class=\"" + css + "\"";
}

std::string cell_html(const Cell& cell, const Column& column, bool begins_group, const std::string& id) {
  std::string html = "<td" + css_of(column, begins_group);
  if (column.text) {
    html += " data-order=\"" + html_escaped(cell.text) + "\"";
  } else if (cell.has_value) {
    html += " data-order=\"" + exact(cell.order) + "\"";
  }
  html += ">";
  if (!cell.has_value && !cell.failed) return html + "<span class=\"soft\">–</span></td>";
  html += cell.failed ? "<span class=\"failed\">" + html_escaped(cell.text) + "</span>" : html_escaped(cell.text);
  if (cell.calibrated_on) html += "<a class=\"mark\" href=\"#" + id + "-notes\" title=\"This text also calibrated the model\">*</a>";
  if (!cell.detail.empty()) html += "<span class=\"detail\">" + html_escaped(cell.detail) + "</span>";
  return html + "</td>";
}

// A row with the groups' names; empty where there is one group beside the models' own columns.
std::string group_row(const std::vector<Column>& columns) {
  std::string html;
  std::size_t named = 0;
  for (std::size_t begin = 0; begin < columns.size();) {
    std::size_t end = begin;
    while (end < columns.size() && columns[end].group == columns[begin].group) ++end;
    const std::string name(column_group_name(columns[begin].group));
    named += !name.empty();
    html += "<th scope=\"colgroup\" colspan=\"" + std::to_string(end - begin) + "\"" + (name.empty() ? "" : " class=\"begin\"") + ">" + name + "</th>";
    begin = end;
  }
  return named < 2 ? "" : "<tr class=\"groups\">" + html + "</tr>\n";
}

}  // namespace

std::string table_html(const Table& table, const std::string& id) {
  std::string html = "<div class=\"scroll\" tabindex=\"0\"><table id=\"" + id + "\"" + (table.columns.size() > 10 ? " class=\"many\" style=\"--columns:" + std::to_string(table.columns.size()) + "\"" : "") + ">\n<thead>" + group_row(table.columns) + "<tr class=\"titles\">";
  const auto begins = [&](std::size_t c) {
    return c > 0 && table.columns[c].group != ColumnGroup::Model && table.columns[c - 1].group != table.columns[c].group;
  };
  for (std::size_t c = 0; c < table.columns.size(); ++c) {
    const Column& column = table.columns[c];
    html += "<th scope=\"col\"" + css_of(column, begins(c)) + "><button type=\"button\" title=\"" + html_escaped(column.explanation) + "\">" +
            html_escaped(column.title) + "</button></th>";
  }
  html += "</tr></thead>\n<tbody>\n";
  for (std::size_t row = 0; row < table.rows; ++row) {
    html += "<tr>";
    for (std::size_t c = 0; c < table.columns.size(); ++c) html += cell_html(table.columns[c].cells[row], table.columns[c], begins(c), id);
    html += "</tr>\n";
  }
  html += "</tbody></table></div>\n<ul class=\"notes\" id=\"" + id + "-notes\">\n";
  for (const std::string& note : table.notes) html += "<li>" + html_escaped(note) + "</li>\n";
  html += "</ul>\n<details class=\"legend\"><summary>What the columns mean</summary><ul class=\"notes\">\n";
  for (const Column& column : table.columns) {
    if (!column.text && !column.is_change && !column.explanation.empty() && column.group != ColumnGroup::Perplexity)
      html += "<li><b>" + html_escaped(column.title) + "</b>: " + html_escaped(column.explanation) + ".</li>\n";
  }
  return html + "</ul></details>\n";
}

}  // namespace miq
