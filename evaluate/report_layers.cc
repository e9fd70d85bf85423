// Drawings that have all layers of a model side by side. Colour says how large a value is; where a cell has room, the number stands in
// it, and every cell has it as its tooltip.
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "miq/evaluate/report_plots.h"
#include "miq/evaluate/svg.h"
#include "miq/model/matrix_kind.h"

namespace miq {
namespace {

constexpr double kLeft = 100;  // of the drawings: room for the names of three matrices

// Matrices of a model by layer and kind, with a value each.
struct Grid {
  std::vector<std::string> kinds;  // in forward order
  std::int64_t layers = 0;
  std::map<std::pair<std::int64_t, std::string>, double> values;

  void add(std::int64_t layer, const std::string& kind, double value) {
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
    layers = std::max(layers, layer + 1);
    if (std::isfinite(value)) values[{layer, kind}] = value;
  }
};

std::string shown_kind(std::string kind) {
  if (kind.ends_with("_proj")) kind.resize(kind.size() - 5);
  if (kind.starts_with("experts.")) kind = "ex. " + kind.substr(8);
  if (kind.starts_with("shared_expert.")) kind = "sh. " + kind.substr(14);
  return kind;
}

// Sums by (layer, kind), so that experts give their average.
struct Averages {
  std::map<std::pair<std::int64_t, std::string>, std::pair<double, double>> sums;
  std::vector<std::pair<std::int64_t, std::string>> order;
  void add(std::int64_t layer, const std::string& name, double value, double weight) {
    if (!std::isfinite(value) || weight <= 0) return;
    const std::pair key(layer, matrix_kind(name));
    auto [place, fresh] = sums.try_emplace(key, 0.0, 0.0);
    if (fresh) order.push_back(key);
    place->second.first += value * weight;
    place->second.second += weight;
  }
  Grid grid() const {
    Grid made;
    for (const auto& key : order) {
      const auto& [sum, weight] = sums.at(key);
      made.add(key.first, key.second, sum / weight);
    }
    return made;
  }
};

// Rows whose values are those of the row before (matrices that read the same input) go into it: "q, k, v".
Grid merged(const Grid& grid, std::map<std::string, std::string>& titles) {
  Grid made;
  made.layers = grid.layers;
  std::map<std::string, int> members;
  const auto row = [&](const std::string& kind) {
    std::vector<double> values;
    for (std::int64_t layer = 0; layer < grid.layers; ++layer) {
      const auto found = grid.values.find({layer, kind});
      values.push_back(found == grid.values.end() ? -1 : found->second);
    }
    return values;
  };
  for (const std::string& kind : grid.kinds) {
    if (!made.kinds.empty() && row(kind) == row(made.kinds.back())) {
      const std::string& first = made.kinds.back();
      titles[first] = ++members[first] > 3 ? shown_kind(first) + " … " + shown_kind(kind) : titles[first] + ", " + shown_kind(kind);
      continue;
    }
    titles[kind] = shown_kind(kind);
    members[kind] = 1;
    made.kinds.push_back(kind);
    for (std::int64_t layer = 0; layer < grid.layers; ++layer) {
      if (const auto found = grid.values.find({layer, kind}); found != grid.values.end()) made.values.insert(*found);
    }
  }
  return made;
}

Grid grid_of(const ModelReport& model, MatrixValue value) {
  Averages averages;
  if (value == MatrixValue::Bits && model.size) {
    for (const MatrixBits& matrix : model.size->matrices) {
      if (matrix.kept > 0)
        averages.add(matrix.layer, matrix.name, static_cast<double>(matrix.code_bits) / static_cast<double>(matrix.kept),
                     static_cast<double>(matrix.kept));
    }
  }
  if (value != MatrixValue::Bits && model.structure) {
    for (const MatrixOutcome& matrix : model.structure->matrices) {
      if (value == MatrixValue::Error) averages.add(matrix.layer, matrix.name, matrix.error, 1);
      if (value == MatrixValue::Information && matrix.information && matrix.information->between > 0)
        averages.add(matrix.layer, matrix.name, matrix.information->within / matrix.information->between, 1);
    }
  }
  return averages.grid();
}

std::optional<std::pair<double, double>> range_of(const Grid& grid, MatrixValue value) {
  double low = INFINITY, high = -INFINITY;
  for (const auto& [where, number] : grid.values) {
    if (value == MatrixValue::Information && number <= 0) continue;  // a logarithmic scale
    low = std::min(low, number);
    high = std::max(high, number);
  }
  const bool varies = value == MatrixValue::Bits ? high - low > 0.005 : high > low;
  if (value == MatrixValue::Error) low = 0;
  return varies ? std::optional(std::pair(low, high)) : std::nullopt;
}

std::string value_text(MatrixValue value, double number, bool with_unit) {
  switch (value) {
    case MatrixValue::Bits: return figure_text(number, with_unit ? 3 : 2) + (with_unit ? " bits" : "");
    case MatrixValue::Error:
      if (with_unit) return figure_text(100 * number, 2) + " % of the outputs' energy lost";
      return 100 * number < 0.0995 ? (number < 5e-5 ? "0" : figure_text(100 * number, 1)) : figure_text(100 * number, 2);
    case MatrixValue::Information: return figure_text(number, 2) + (with_unit ? " times as much within groups as between them" : "");
  }
  return {};
}

enum class Shade { Linear, Root, Logarithmic };  // how a value becomes a colour
struct Look {
  const char* title;  // "Bits"
  const char* css;
  Shade shade;
};
Look look_of(MatrixValue value) {
  switch (value) {
    case MatrixValue::Bits: return {"Bits", "cell", Shade::Linear};
    case MatrixValue::Error: return {"Error", "cell warm", Shade::Root};
    case MatrixValue::Information: break;
  }
  return {"Mutual information", "cell green", Shade::Logarithmic};
}

double colour_share(double number, double low, double high, Shade shade) {
  if (!(high > low)) return 1;
  if (shade == Shade::Logarithmic) return number <= low ? 0 : std::clamp(std::log(number / low) / std::log(high / low), 0.0, 1.0);
  const double share = std::clamp((number - low) / (high - low), 0.0, 1.0);
  return shade == Shade::Root ? std::sqrt(share) : share;
}

// Width of one layer's column in drawings that have all layers side by side.
double layer_width(std::size_t layers) { return std::clamp(900.0 / static_cast<double>(std::max<std::size_t>(1, layers)), 8.0, 40.0); }

void layer_numbers(Svg& svg, std::int64_t layers, double cell, double y) {
  const std::int64_t step = cell >= 18 ? 1 : cell >= 9 ? 2 : 5;
  for (std::int64_t layer = 0; layer < layers; layer += step)
    svg.text(kLeft + cell * (static_cast<double>(layer) + 0.5), y, std::to_string(layer), "middle");
}

std::string wide_figure(const std::string& caption, const Svg& svg) {
  return "<figure class=\"wide\"><figcaption>" + html_escaped(caption) + "</figcaption><div class=\"scroll\">" + svg.finish() +
         "</div></figure>\n";
}

// Zeros that come from rounding alone (codes equal to the zero point) are no pruning.
bool pruned(const ModelReport& model) {
  if (!model.parameters || model.parameters->sparsity() < 0.001) return false;
  if (!model.size || !model.size->bytes_by_encoding.contains("packed")) return true;
  return std::any_of(model.size->matrices.begin(), model.size->matrices.end(),
                     [](const MatrixBits& matrix) { return matrix.kept < matrix.weights; });
}

struct Kind {  // of matrices of a grouped model
  std::int64_t fewest = 0, most = 0, smallest = 0, largest = 0;
  std::map<int, std::uint64_t> channels;  // by width
};

std::string span_text(std::int64_t low, std::int64_t high) {
  return low == high ? std::to_string(low) : std::to_string(low) + "–" + std::to_string(high);
}

std::map<std::string, Kind> grouped_kinds(const ModelReport& model, std::vector<std::string>& order) {
  std::map<std::string, Kind> kinds;
  for (const MatrixOutcome& matrix : model.structure->matrices) {
    if (matrix.groups == 0) continue;
    const auto [place, fresh] = kinds.try_emplace(matrix_kind(matrix.name),
                                                  Kind{matrix.groups, matrix.groups, matrix.smallest_group, matrix.largest_group, {}});
    if (fresh) order.push_back(place->first);
    Kind& kind = place->second;
    kind.fewest = std::min(kind.fewest, matrix.groups);
    kind.most = std::max(kind.most, matrix.groups);
    kind.smallest = std::min(kind.smallest, matrix.smallest_group);
    kind.largest = std::max(kind.largest, matrix.largest_group);
  }
  for (const MatrixBits& matrix : model.size ? model.size->matrices : std::vector<MatrixBits>{}) {
    if (const auto found = kinds.find(matrix_kind(matrix.name)); found != kinds.end()) {
      for (const auto& [bits, columns] : matrix.columns_by_bits) found->second.channels[bits] += columns;
    }
  }
  return kinds;
}

}  // namespace

bool heat_range(const Report& report, MatrixValue value, double& low, double& high) {
  low = INFINITY;
  high = -INFINITY;
  for (const ModelReport& model : report.models) {
    if (const auto range = range_of(grid_of(model, value), value)) {
      low = std::min(low, range->first);
      high = std::max(high, range->second);
    }
  }
  return high > low;
}

std::string heat_map(const ModelReport& model, MatrixValue value, double low, double high) {
  const Grid whole = grid_of(model, value);
  if (!range_of(whole, value)) return {};
  std::map<std::string, std::string> titles;
  const Grid grid = merged(whole, titles);
  const Look look = look_of(value);
  constexpr double kCellHeight = 22, kTop = 4;
  const double cell = layer_width(static_cast<std::size_t>(grid.layers));
  const double height = kTop + kCellHeight * static_cast<double>(grid.kinds.size()) + 20;
  Svg svg(kLeft + cell * static_cast<double>(grid.layers), height, std::string(look.title) + " of each matrix of " + model.name, true);
  for (std::size_t row = 0; row < grid.kinds.size(); ++row) {
    const double top = kTop + kCellHeight * static_cast<double>(row);
    svg.text(kLeft - 8, top + 15, titles[grid.kinds[row]], "end");
    for (std::int64_t layer = 0; layer < grid.layers; ++layer) {
      const auto found = grid.values.find({layer, grid.kinds[row]});
      if (found == grid.values.end()) continue;
      const double share = colour_share(found->second, low, high, look.shade), left = kLeft + cell * static_cast<double>(layer);
      svg.rectangle(left + 0.5, top + 0.5, cell - 1, kCellHeight - 1, look.css,
                    "layer " + std::to_string(layer) + " " + titles[grid.kinds[row]] + ": " + value_text(value, found->second, true),
                    0.08 + 0.92 * share);
      if (cell >= 24)
        svg.text(left + cell / 2, top + 15, value_text(value, found->second, false), "middle", share > 0.55 ? "value on-dark" : "value");
    }
  }
  layer_numbers(svg, grid.layers, cell, height - 4);
  return wide_figure(model.name, svg);
}

std::string sparsity_plot(const ModelReport& model) {
  if (!pruned(model)) return {};
  std::map<std::int64_t, std::pair<std::int64_t, std::int64_t>> layers;  // zeros, weights
  for (const MatrixCount& matrix : model.parameters->matrices) {
    layers[matrix.layer].first += matrix.zeros;
    layers[matrix.layer].second += matrix.weights;
  }
  constexpr double kTop = 10, kPlot = 90;
  const double bar = layer_width(layers.size()), width = kLeft + bar * static_cast<double>(layers.size());
  Svg svg(width, kTop + kPlot + 22, "Share of zeros in each layer of " + model.name, true);
  for (int percent : {0, 50, 100}) {
    const double y = kTop + kPlot * (1 - percent / 100.0);
    svg.line(kLeft, y, width, y, percent == 0 ? "axis" : "grid");
    svg.text(kLeft - 8, y + 4, std::to_string(percent) + " %", "end");
  }
  std::size_t position = 0;
  for (const auto& [layer, counts] : layers) {
    const double share = static_cast<double>(counts.first) / static_cast<double>(std::max<std::int64_t>(1, counts.second));
    const double left = kLeft + bar * static_cast<double>(position++), gap = std::min(2.0, 0.2 * bar);
    svg.rectangle(left + gap, kTop + kPlot * (1 - share), bar - 2 * gap, kPlot * share, "bar",
                  "layer " + std::to_string(layer) + ": " + figure_text(100 * share, 3) + " % zeros");
    if (bar >= 18 || position % 5 == 1) svg.text(left + bar / 2, kTop + kPlot + 16, std::to_string(layer), "middle");
  }
  return wide_figure(model.name, svg);
}

std::string groups_plot(const ModelReport& model) {
  if (!model.structure) return {};
  std::vector<std::string> order;
  const std::map<std::string, Kind> kinds = grouped_kinds(model, order);
  if (order.empty()) return {};
  constexpr double kRow = 24, kBar = 300, kText = 190;
  Svg svg(kLeft + kBar + kText, kRow * static_cast<double>(order.size()) + 2, "Groups of input channels of " + model.name, true);
  for (std::size_t row = 0; row < order.size(); ++row) {
    const Kind& kind = kinds.at(order[row]);
    const double top = kRow * static_cast<double>(row);
    svg.text(kLeft - 8, top + 16, shown_kind(order[row]), "end");
    double total = 0, left = kLeft;
    for (const auto& [bits, columns] : kind.channels) total += static_cast<double>(columns);
    for (const auto& [bits, columns] : kind.channels) {
      const double share = static_cast<double>(columns) / total, width = kBar * share;
      const double depth = std::clamp((bits - 1) / 7.0, 0.1, 1.0);
      svg.rectangle(left, top + 2, std::max(0.5, width - 1), kRow - 4, "cell",
                    std::to_string(bits) + " bits: " + figure_text(100 * share, 2) + " % of the channels", depth);
      if (width >= 14) svg.text(left + width / 2, top + 16, std::to_string(bits), "middle", depth > 0.55 ? "value on-dark" : "value");
      left += width;
    }
    svg.text(kind.channels.empty() ? kLeft : kLeft + kBar + 10, top + 16,
             span_text(kind.fewest, kind.most) + (kind.most == 1 ? " group of " : " groups of ") + span_text(kind.smallest, kind.largest), "start");
  }
  return wide_figure(model.name, svg);
}

std::string information_blocks(const ModelReport& model) {
  if (!model.structure) return {};
  std::vector<const MatrixOutcome*> shown;
  std::int64_t last = 0;
  double highest = 0;
  for (const MatrixOutcome& matrix : model.structure->matrices) last = std::max(last, matrix.layer);
  for (const MatrixOutcome& matrix : model.structure->matrices) {
    const bool chosen = matrix.layer == 0 || matrix.layer == last / 2 || matrix.layer == last;
    if (!chosen || !matrix.information || matrix.information->blocks.empty()) continue;
    // Matrices that read the same input have the same.
    if (!shown.empty() && shown.back()->layer == matrix.layer && shown.back()->information->blocks == matrix.information->blocks) continue;
    shown.push_back(&matrix);
    for (const auto& row : matrix.information->blocks) highest = std::max(highest, *std::max_element(row.begin(), row.end()));
  }
  if (shown.empty() || !(highest > 0)) return {};
  constexpr double kSide = 132;
  std::string html;
  for (const MatrixOutcome* matrix : shown) {
    const auto& blocks = matrix->information->blocks;
    const double cell = kSide / static_cast<double>(blocks.size());
    const std::string name = "layer " + std::to_string(matrix->layer) + ", input of " + shown_kind(matrix->name);
    Svg svg(kSide, kSide, "Mutual information between groups, " + name, true);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      for (std::size_t j = 0; j < blocks.size(); ++j) {
        svg.rectangle(cell * static_cast<double>(j), cell * static_cast<double>(i), cell, cell, "cell green",
                      std::to_string(i) + ", " + std::to_string(j) + ": " + figure_text(blocks[i][j], 3) + " nats",
                      std::sqrt(std::clamp(blocks[i][j] / highest, 0.0, 1.0)));
      }
    }
    html += "<figure class=\"small\">" + svg.finish() + "<figcaption>" + html_escaped(name) + "</figcaption></figure>\n";
  }
  return "<figure class=\"wide\"><figcaption>" + html_escaped(model.name) + ": up to " + figure_text(highest, 2) +
         " nats</figcaption>\n<div class=\"matrices\">" + html + "</div></figure>\n";
}

}  // namespace miq
