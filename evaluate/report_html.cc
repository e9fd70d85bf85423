// The page, top to bottom: conditions, summary table and notes, the drawings by section, a card a model. Whatever comes from a file or a user goes through html_escaped.
#include <algorithm>
#include <cmath>
#include <map>

#include "miq/evaluate/report_command.h"
#include "miq/evaluate/report_compare.h"
#include "miq/evaluate/report_plots.h"
#include "miq/evaluate/report_style.h"
#include "miq/evaluate/svg.h"

namespace miq {
namespace {

// A section with a heading that the line of links on top leads to; empty where there is nothing in it.
struct Section {
  std::string id, title, body;
};

Section plots_section(const Report& report) {
  std::string plots;
  for (const std::string& text : report.texts()) plots += perplexity_plot(report, text);
  if (!plots.empty()) {
    plots = "<p class=\"soft\">Lower and further left is better. The dashed line is the Pareto front: no other model here is both smaller "
            "and better than those on it. A dotted level is a model too large to stand beside the others.</p>\n<div class=\"plots\">\n" +
            plots + "</div>\n";
  }
  return {"size", "Perplexity against size", plots};
}

Section losses_section(const Report& report) {
  std::string plots;
  for (const std::string& text : report.texts()) plots += window_losses(report, text);
  if (!plots.empty()) {
    plots = "<p class=\"soft\">What each model loses in each window of the text against the first one, in nats a token: a change of all "
            "windows alike shows as a level, trouble with a passage as a spike.</p>\n<div class=\"plots\">\n" +
            plots + "</div>\n";
  }
  return {"losses", "Loss in each window", plots};
}

Section heat_section(const Report& report, MatrixValue value, std::string id, std::string title, const std::string& explanation,
                     const std::string& css, double factor, const std::string& unit) {
  double low = 0, high = 0;
  if (!heat_range(report, value, low, high)) return {};
  std::string html = "<p class=\"soft\">" + explanation + "<br>" + (low > 0 ? figure_text(factor * low, 2) : "0") + "<span class=\"key" + css + "\"></span>" +
                     figure_text(factor * high, 2) + unit + "</p>\n<div class=\"wides\">\n";
  for (const ModelReport& model : report.models) html += heat_map(model, value, low, high);
  return {std::move(id), std::move(title), html + "</div>\n"};
}

Section each_model_section(const Report& report, std::string id, std::string title, const std::string& explanation,
                           std::string (*draw)(const ModelReport&)) {
  std::string html;
  for (const ModelReport& model : report.models) html += draw(model);
  if (!html.empty()) html = "<p class=\"soft\">" + explanation + "</p>\n<div class=\"wides\">\n" + html + "</div>\n";
  return {std::move(id), std::move(title), html};
}

std::vector<Section> sections(const Report& report) {
  return {plots_section(report),
          losses_section(report),
          heat_section(report, MatrixValue::Bits, "bits", "Bits of each matrix", "Code bits per kept weight; layers from left to right.", "",
                       1, " bits"),
          heat_section(report, MatrixValue::Error, "error", "Error of each matrix",
                       "Share of the energy of a matrix’ outputs that compression lost, on the calibration text, in percent; the colour goes "
                       "with its square root.",
                       " warm", 100, " %"),
          each_model_section(report, "zeros", "Zeros in each layer", "Share of exact zeros in the linears of each decoder layer.", sparsity_plot),
          each_model_section(report, "groups", "Groups and widths",
                             "Input channels that share scales and a width: the share of the channels with each number of bits, and how the "
                             "channels were grouped.",
                             groups_plot),
          heat_section(report, MatrixValue::Information, "information", "Mutual information",
                       "How much more the channels of one group tell about each other than channels of different groups do: the mean within "
                       "groups over the mean between them, for the input of each matrix; the colour is logarithmic.",
                       " green", 1, " times"),
          each_model_section(report, "blocks", "Mutual information between groups",
                             "Rows and columns are groups of an input’s channels; on the diagonal the mean within a group.",
                             information_blocks)};
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

// Layer by layer in figures: what the drawings show.
std::string layers_html(const ModelReport& model) {
  struct Layer {
    double bits = 0, kept = 0, stored = 0, weights = 0, zeros = 0, error = 0;
    int errors = 0;
    const LayerOutcome* outcome = nullptr;
  };
  std::map<std::int64_t, Layer> layers;
  if (!model.structure) return {};
  for (const MatrixOutcome& matrix : model.structure->matrices) {
    if (!std::isfinite(matrix.error)) continue;
    layers[matrix.layer].error += matrix.error;
    ++layers[matrix.layer].errors;
  }
  for (const LayerOutcome& outcome : model.structure->layers) layers[outcome.layer].outcome = &outcome;
  for (const MatrixBits& matrix : model.size ? model.size->matrices : std::vector<MatrixBits>{}) {
    Layer& layer = layers[matrix.layer];
    layer.bits += static_cast<double>(matrix.code_bits);
    layer.kept += static_cast<double>(matrix.kept);
    layer.stored += static_cast<double>(matrix.stored_bits);
    layer.weights += static_cast<double>(matrix.weights);
  }
  for (const MatrixCount& matrix : model.parameters ? model.parameters->matrices : std::vector<MatrixCount>{})
    layers[matrix.layer].zeros += static_cast<double>(matrix.zeros);
  const bool reshaped = !model.structure->layers.empty();
  std::string html = "<details class=\"legend layers\"><summary>Layer by layer</summary><div class=\"scroll\"><table class=\"plain\"><thead><tr><th>layer</th>"
                     "<th>mean error</th><th>code bits</th><th>eff. bits</th><th>zeros</th>";
  if (reshaped) html += "<th>heads</th><th>MLP</th><th>width</th><th>removed</th>";
  html += "</tr></thead><tbody>\n";
  const auto cell = [](bool known, const std::string& text) { return "<td>" + (known ? text : std::string("–")) + "</td>"; };
  for (const auto& [number, layer] : layers) {
    html += "<tr><td>" + std::to_string(number) + "</td>" + cell(layer.errors > 0, figure_text(100 * layer.error / std::max(1, layer.errors), 3) + " %") +
            cell(layer.kept > 0, figure_text(layer.bits / layer.kept, 3)) + cell(layer.weights > 0, figure_text(layer.stored / layer.weights, 3)) +
            cell(layer.weights > 0 && model.parameters, figure_text(100 * layer.zeros / layer.weights, 3) + " %");
    if (reshaped) {
      const LayerOutcome none, &outcome = layer.outcome == nullptr ? none : *layer.outcome;
      html += cell(outcome.heads > 0, std::to_string(outcome.heads)) + cell(outcome.mlp_width > 0, std::to_string(outcome.mlp_width)) +
              cell(outcome.width > 0, std::to_string(outcome.width)) +
              cell(layer.outcome != nullptr && outcome.width == 0, figure_text(100 * outcome.removed, 3) + " %");
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div></details>\n";
}

std::string commands_html(const Report& report, const ModelReport& model) {
  std::string text;
  for (const std::string& line : reproduce_commands(report, model)) text += (text.empty() ? "" : "\n") + html_escaped(line);
  return "<p class=\"soft\">To make it again:</p>\n<pre tabindex=\"0\"><code>" + text + "</code></pre>\n";
}

std::string card_html(const Report& report, const ModelReport& model) {
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
  for (const Divergence& result : model.divergence) {
    if (result.failed()) continue;
    add_row(html, "divergence, " + result.text,
            "from " + result.reference + ": mean " + figure_text(result.mean) + " ± " + figure_text(result.standard_error, 2) + ", median " +
                figure_text(result.median) + ", 90 % " + figure_text(result.percentile_90) + ", 99 % " + figure_text(result.percentile_99) +
                ", largest " + figure_text(result.maximum) + " nats over " + std::to_string(result.tokens) + " tokens; same most likely token " +
                figure_text(100 * result.same_top) + " %; correlation of losses " + figure_text(result.loss_correlation));
  }
  for (const ZeroShotResult& result : model.zeroshot) {
    const auto share = [](const Share& value) { return figure_text(100 * value.value, 4) + " ± " + figure_text(100 * value.standard_error, 2) + " %"; };
    add_row(html, "zero-shot, " + result.task,
            result.failed() ? "no value: " + result.failure
                            : share(result.accuracy) + (result.normalised ? ", length-normalised " + share(result.accuracy_norm) : "") + "; " +
                                  std::to_string(result.items) + " questions, digest " + result.digest);
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
  return html + "</dl>\n" + layers_html(model) + commands_html(report, model) + "</details>\n";
}

constexpr const char* kThemes =
    "<div class=\"theme screen\" role=\"group\" aria-label=\"Colours\"><button type=\"button\" data-set-theme=\"\" "
    "aria-pressed=\"true\">auto</button><button type=\"button\" data-set-theme=\"light\" aria-pressed=\"false\">light</button><button "
    "type=\"button\" data-set-theme=\"dark\" aria-pressed=\"false\">dark</button></div>\n";

std::string page(const Report& report, const Table& table, const std::string& title) {
  std::string html =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, "
      "initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src "
      "'unsafe-inline'\">\n"
      "<title>miq: " + html_escaped(title) + "</title>\n<style>";
  html += kReportStyle;
  html += "</style>\n</head>\n<body>\n<header>" + std::string(kThemes) + "<h1>" + html_escaped(title) + "</h1>\n<p class=\"soft\">Perplexity by protocol " +
          html_escaped(report.protocol) + ", computed in " + html_escaped(report.dtype) + " on " + html_escaped(report.device) +
          ". <span class=\"screen\">Click a column’s title to sort by it.</span></p>\n";
  std::string links, bodies;
  for (const Section& section : sections(report)) {
    if (section.body.empty()) continue;
    links += "<a href=\"#" + section.id + "\">" + section.title + "</a>\n";
    bodies += "<section id=\"" + section.id + "\">\n<h2>" + section.title + "</h2>\n" + section.body + "</section>\n";
  }
  html += "<nav class=\"screen\">" + links + "<a href=\"#models\">Models</a></nav></header>\n<main>\n" + table_html(table, "summary") + bodies +
          "<section id=\"models\">\n<h2>Models</h2>\n";
  for (const ModelReport& model : report.models) html += card_html(report, model);
  return html + "</section>\n</main>\n<script>" + kReportScript + "</script>\n</body>\n</html>\n";
}

}  // namespace

std::string report_html(const Report& report) {
  const std::size_t count = report.models.size();
  return page(report, summary_table(report),
              count == 1 ? "Evaluation of " + report.models.front().name : "Evaluation of " + std::to_string(count) + " models");
}

std::string comparison_html(const Comparison& comparison) {
  return page(comparison.report, comparison_table(comparison), "Comparison of " + std::to_string(comparison.report.models.size()) + " results");
}

}  // namespace miq
