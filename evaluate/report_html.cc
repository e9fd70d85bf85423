// The page, top to bottom: conditions, summary table and notes, perplexity against size, bits and sparsity
// by layer, a card a model. Whatever comes from a file or a user goes through html_escaped.
#include <cmath>
#include <cstdio>

#include "miq/evaluate/report_columns.h"
#include "miq/evaluate/report_plots.h"
#include "miq/evaluate/report_style.h"
#include "miq/evaluate/svg.h"

namespace miq {
namespace {

std::string exact(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

std::string cell_html(const Cell& cell, const Column& column) {
  std::string html = column.text ? "<td class=\"text\"" : "<td";
  if (column.text) {
    html += " data-order=\"" + html_escaped(cell.text) + "\"";
  } else if (cell.has_value) {
    html += " data-order=\"" + exact(cell.order) + "\"";
  }
  html += ">";
  if (!cell.has_value && !cell.failed) return html + "<span class=\"soft\">–</span></td>";
  html += cell.failed ? "<span class=\"failed\">" + html_escaped(cell.text) + "</span>" : html_escaped(cell.text);
  if (cell.calibrated_on) html += "<a class=\"mark\" href=\"#notes\" title=\"This text also calibrated the model\">*</a>";
  if (!cell.detail.empty()) html += "<span class=\"detail\">" + html_escaped(cell.detail) + "</span>";
  return html + "</td>";
}

std::string table_html(const Report& report) {
  const std::vector<Column> columns = report_columns(report);
  std::string html = "<div class=\"scroll\"><table>\n<thead><tr>";
  for (const Column& column : columns) {
    html += std::string("<th scope=\"col\"") + (column.text ? " class=\"text\"" : "") + "><button type=\"button\" title=\"" +
            html_escaped(column.explanation) + "\">" + html_escaped(column.title) + "</button></th>";
  }
  html += "</tr></thead>\n<tbody>\n";
  for (std::size_t row = 0; row < report.models.size(); ++row) {
    html += "<tr>";
    for (const Column& column : columns) html += cell_html(column.cells[row], column);
    html += "</tr>\n";
  }
  html += "</tbody></table></div>\n<ul class=\"notes\" id=\"notes\">\n";
  for (const std::string& note : report_notes(report)) html += "<li>" + html_escaped(note) + "</li>\n";
  html += "</ul>\n<details class=\"legend\"><summary>What the columns mean</summary><ul class=\"notes\">\n";
  for (const Column& column : columns) {
    if (!column.text && !column.explanation.empty() && column.explanation.rfind("Perplexity", 0) != 0) {
      html += "<li><b>" + html_escaped(column.title) + "</b>: " + html_escaped(column.explanation) + ".</li>\n";
    }
  }
  return html + "</ul></details>\n";
}

std::string plots_html(const Report& report) {
  std::string html, plots;
  for (const std::string& text : report.texts()) plots += perplexity_plot(report, text);
  if (!plots.empty()) {
    html +=
        "<h2>Perplexity against size</h2>\n<p class=\"soft\">Lower and further left is better. The dashed line is the Pareto front: no "
        "other model here is both "
        "smaller and better than those on it. A dotted level is a model too large to stand beside the others.</p>\n<div "
        "class=\"plots\">\n" +
        plots + "</div>\n";
  }
  double low = 0, high = 0;
  if (bits_range(report, low, high)) {
    html += "<h2>Bits of each matrix</h2>\n<p class=\"soft\">Code bits per kept weight; layers from left to right." + std::string("<br>") +
            figure_text(low, 2) + "<span class=\"key\"></span>" + figure_text(high, 2) + " bits</p>\n";
    for (const ModelReport& model : report.models) html += bits_heat_map(model, low, high);
  }
  plots.clear();
  for (const ModelReport& model : report.models) plots += sparsity_plot(model);
  if (!plots.empty())
    html += "<h2>Zeros in each layer</h2>\n<p class=\"soft\">Share of exact zeros in the linears of each decoder layer.</p>\n" + plots;
  return html;
}

// A JSON value for reading: scalars as they are, anything else as JSON.
std::string value_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_float()) return figure_text(value.get<double>(), 6);
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string object_text(const Json& object) {
  std::string text;
  for (const auto& [key, value] : object.items()) text += (text.empty() ? "" : ", ") + key + " " + value_text(value);
  return text;
}

void add_row(std::string& html, std::string_view term, const std::string& value, bool code = false) {
  if (value.empty()) return;
  html += "<dt>" + html_escaped(term) + "</dt><dd>" + (code ? "<code>" : "") + html_escaped(value) + (code ? "</code>" : "") + "</dd>\n";
}

std::string parts_text(const ParameterCount& count) {
  std::string text;
  for (const auto& [part, parameters] : count.by_part) {
    text += (text.empty() ? "" : ", ") + std::string(part_name(part)) + " " + figure_text(static_cast<double>(parameters) / 1e6) + " M";
  }
  return text;
}

std::string histogram_text(const SizeFigures& size) {
  std::map<int, std::uint64_t> columns;
  std::uint64_t total = 0;
  for (const MatrixBits& matrix : size.matrices) {
    for (const auto& [bits, count] : matrix.columns_by_bits) {
      columns[bits] += count;
      total += count;
    }
  }
  std::string text;
  for (const auto& [bits, count] : columns) {
    text += (text.empty() ? "" : ", ") + std::to_string(bits) + " bits " +
            figure_text(100 * static_cast<double>(count) / static_cast<double>(total), 3) + " %";
  }
  return text;
}

std::string card_html(const ModelReport& model) {
  std::string html = "<details class=\"card\"><summary>" + html_escaped(model.name) + " <span>" + html_escaped(model.method_name()) +
                     "</span></summary>\n<dl>\n";
  add_row(html, "method", object_text(model.method));
  add_row(html, "calibration", object_text(model.calibration));
  add_row(html, "source", object_text(model.source));
  add_row(html, "file", model.path, true);
  add_row(html, "weights digest", model.digest, true);
  add_row(html, "architecture",
          model.architecture + ", " + std::to_string(model.layers) + " layers, hidden size " + std::to_string(model.hidden) +
              ", vocabulary " + std::to_string(model.vocabulary) + ", at most " + std::to_string(model.max_positions) + " positions");
  add_row(html, "tokenizer", model.tokenizer);
  if (model.parameters) {
    add_row(html, "parameters",
            std::to_string(model.parameters->total) + ", of them not zero " + std::to_string(model.parameters->nonzero));
    add_row(html, "by part", parts_text(*model.parameters));
  }
  if (model.size) {
    add_row(html, "bytes", bytes_text(model.size->file_bytes) + " on disk, weights " + bytes_text(model.size->weight_bytes));
    add_row(html, "bits a weight",
            figure_text(model.size->code_bits, 4) + " code, " + figure_text(model.size->effective_bits, 4) + " effective; whole model " +
                figure_text(model.size->model_bits, 4) + " a parameter");
    add_row(html, "channels by width", histogram_text(*model.size));
  }
  for (const Perplexity& result : model.perplexity) {
    const std::string what = "perplexity, " + result.text;
    if (result.failed()) {
      add_row(html, what, "no value: " + result.failure);
      continue;
    }
    add_row(html, what,
            figure_text(result.summary.perplexity, 7) + " ± " + figure_text(result.summary.standard_error, 2) + "; " +
                std::to_string(result.windows) + " windows of " + std::to_string(result.seqlen) + " of " +
                std::to_string(result.text_tokens) + " tokens, protocol " + result.protocol + ", text " + result.text_digest +
                (result.calibrated_on ? "; this text also calibrated the model" : ""));
  }
  if (model.throughput) {
    add_row(html, "speed",
            figure_text(model.throughput->tokens_per_second) + " tokens/s over " + figure_text(model.throughput->seconds, 3) + " s");
  }
  if (model.memory) {
    add_row(html, "peak memory",
            bytes_text(model.memory->peak_bytes) + " resident, " + bytes_text(model.memory->peak_anonymous_bytes) +
                " without mapped files (idle " + bytes_text(model.memory->idle_anonymous_bytes) + ")");
  }
  return html + "</dl></details>\n";
}

}  // namespace

std::string report_html(const Report& report) {
  const std::size_t count = report.models.size();
  std::string html =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, "
      "initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src "
      "'unsafe-inline'\">\n"
      "<title>miq evaluation</title>\n<style>";
  html += kReportStyle;
  html += "</style>\n</head>\n<body>\n<h1>" +
          std::string(count == 1 ? "Evaluation of " + html_escaped(report.models.front().name)
                                 : "Evaluation of " + std::to_string(count) + " models") +
          "</h1>\n<p class=\"soft\">Perplexity by protocol " + html_escaped(report.protocol) + ", computed in " +
          html_escaped(report.dtype) + " on " + html_escaped(report.device) +
          ". <span class=\"screen\">Click a column's title to sort by it.</span></p>\n";
  html += table_html(report) + plots_html(report) + "<h2>Models</h2>\n";
  for (const ModelReport& model : report.models) html += card_html(model);
  html += "<script>" + std::string(kReportScript) + "</script>\n</body>\n</html>\n";
  return html;
}

}  // namespace miq
