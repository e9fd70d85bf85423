// Dots carry their names beside them (placed greedily where they overlap nothing), so no legend and no
// colour coding is needed; colour only tells the front from the rest.
#include "miq/evaluate/report_plots.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "miq/evaluate/svg.h"

namespace miq {
namespace {

struct Dot {
  const ModelReport* model;
  double bytes, perplexity, x = 0, y = 0;
  bool on_front = false;
};

std::vector<Dot> dots_of(const Report& report, const std::string& text) {
  std::vector<Dot> dots;
  for (const ModelReport& model : report.models) {
    if (!model.size || model.size->file_bytes == 0) continue;
    for (const Perplexity& result : model.perplexity) {
      if (result.text == text && !result.failed())
        dots.push_back({&model, static_cast<double>(model.size->file_bytes), result.summary.perplexity});
    }
  }
  std::sort(dots.begin(), dots.end(),
            [](const Dot& a, const Dot& b) { return std::pair(a.bytes, a.perplexity) < std::pair(b.bytes, b.perplexity); });
  double best = INFINITY;
  for (Dot& dot : dots) {
    dot.on_front = dot.perplexity < best;
    best = std::min(best, dot.perplexity);
  }
  return dots;
}

struct Box {
  double x, y, width, height;
  bool overlaps(const Box& other) const {
    return x < other.x + other.width && other.x < x + width && y < other.y + other.height && other.y < y + height;
  }
};

constexpr double kLetter = 7.2;  // width of a letter of a label, about

std::size_t letters(const std::string& text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string shortened(const std::string& name) {
  constexpr std::size_t kLongest = 28;
  if (letters(name) <= kLongest) return name;
  std::size_t end = 0, count = 0;
  while (end < name.size() && count < kLongest - 1) {
    ++end;
    while (end < name.size() && (static_cast<unsigned char>(name[end]) & 0xC0) == 0x80) ++end;
    ++count;
  }
  return name.substr(0, end) + "…";
}

// Writes the dots' names at the first of eight places that is free, else at the right.
// `taken` is not free from the start.
void label_dots(Svg& svg, const std::vector<Dot>& dots, const Box& area, std::vector<Box> taken) {
  for (const Dot& dot : dots) taken.push_back({dot.x - 6, dot.y - 6, 12, 12});
  for (const Dot& dot : dots) {
    const std::string name = shortened(dot.model->name);
    const double width = kLetter * static_cast<double>(letters(name)), height = 14;
    const std::array<std::pair<double, double>, 8> places{
        {{8, -21}, {10, -7}, {-10 - width, -7}, {-width / 2, -23}, {-width / 2, 9}, {8, 8}, {-8 - width, -21}, {-8 - width, 8}}};
    Box chosen{dot.x + 10, dot.y - 7, width, height};
    for (const auto& [dx, dy] : places) {
      const Box box{dot.x + dx, dot.y + dy, width, height};
      const bool inside =
          box.x >= area.x && box.x + box.width <= area.x + area.width && box.y >= area.y && box.y + box.height <= area.y + area.height;
      if (inside && std::none_of(taken.begin(), taken.end(), [&](const Box& other) { return other.overlaps(box); })) {
        chosen = box;
        break;
      }
    }
    taken.push_back(chosen);
    svg.text(chosen.x, chosen.y + 11, name, "start", dot.on_front ? "label front" : "label");
  }
}

// A model more than half as large again as all others (the dense one, as a rule) would squeeze them into a corner:
// it becomes a level to compare with. REQUIRES dots in order of size.
std::optional<Dot> take_reference(std::vector<Dot>& dots) {
  if (dots.size() < 3 || dots.back().bytes <= 1.5 * dots[dots.size() - 2].bytes) return std::nullopt;
  const Dot reference = dots.back();
  dots.pop_back();
  return reference;
}

// As many decimals as tell neighbouring ticks apart.
std::vector<std::string> tick_texts(const std::vector<double>& ticks) {
  double step = ticks.empty() ? 1 : std::fabs(ticks.front());
  for (std::size_t i = 1; i < ticks.size(); ++i) step = std::min(step, ticks[i] - ticks[i - 1]);
  const int decimals = step > 0 ? std::clamp(static_cast<int>(-std::floor(std::log10(step) + 1e-9)), 0, 6) : 0;
  std::vector<std::string> texts;
  for (double tick : ticks) {
    const int before = tick > 0 ? static_cast<int>(std::floor(std::log10(tick) + 1e-9)) + 1 : 1;
    texts.push_back(figure_text(tick, before + decimals));
  }
  return texts;
}

// Matrices of a model by layer and kind, with a value each.
struct Grid {
  std::vector<std::string> kinds;  // in forward order
  std::int64_t layers = 0;
  std::map<std::pair<std::int64_t, std::string>, double> values;
};

Grid bits_grid(const ModelReport& model) {
  Grid grid;
  if (!model.size) return grid;
  for (const MatrixBits& matrix : model.size->matrices) {
    if (std::find(grid.kinds.begin(), grid.kinds.end(), matrix.name) == grid.kinds.end()) grid.kinds.push_back(matrix.name);
    grid.layers = std::max(grid.layers, matrix.layer + 1);
    if (matrix.kept > 0)
      grid.values[{matrix.layer, matrix.name}] = static_cast<double>(matrix.code_bits) / static_cast<double>(matrix.kept);
  }
  return grid;
}

bool varies(const Grid& grid, double& low, double& high) {
  low = INFINITY;
  high = -INFINITY;
  for (const auto& [where, value] : grid.values) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  return high - low > 0.005;
}

// Width of one layer's column in drawings that have all layers side by side.
double layer_width(std::size_t layers) { return std::clamp(900.0 / static_cast<double>(std::max<std::size_t>(1, layers)), 8.0, 40.0); }

// Zeros that come from rounding alone (codes equal to the zero point) are no pruning.
bool pruned(const ModelReport& model) {
  if (!model.parameters || model.parameters->sparsity() < 0.001) return false;
  if (!model.size || !model.size->bytes_by_encoding.contains("packed")) return true;
  return std::any_of(model.size->matrices.begin(), model.size->matrices.end(),
                     [](const MatrixBits& matrix) { return matrix.kept < matrix.weights; });
}

}  // namespace

std::string perplexity_plot(const Report& report, const std::string& text) {
  std::vector<Dot> dots = dots_of(report, text);
  if (dots.size() < 2) return {};
  constexpr double kWidth = 560, kHeight = 360, kLeft = 58, kRight = 14, kTop = 12, kBottom = 44;
  const auto [lowest, highest] =
      std::minmax_element(dots.begin(), dots.end(), [](const Dot& a, const Dot& b) { return a.perplexity < b.perplexity; });
  const double low = lowest->perplexity, high = highest->perplexity;
  const std::optional<Dot> reference = take_reference(dots);
  const bool logarithmic_y = high > 2 * low, logarithmic_x = dots.back().bytes > 4 * dots.front().bytes;
  const double unit = dots.back().bytes >= 2e9 ? 1e9 : 1e6;
  const Scale x(dots.front().bytes / unit, dots.back().bytes / unit, kLeft, kWidth - kRight, logarithmic_x);
  const Scale y(low, high, kHeight - kBottom, kTop, logarithmic_y);
  Svg svg(kWidth, kHeight, "Perplexity on " + text + " against bytes on disk");
  const std::vector<std::string> x_texts = tick_texts(x.ticks()), y_texts = tick_texts(y.ticks());
  for (std::size_t i = 0; i < y_texts.size(); ++i) {
    const double level = y(y.ticks()[i]);
    svg.line(kLeft, level, kWidth - kRight, level, "grid");
    svg.text(kLeft - 8, level + 4, y_texts[i], "end");
  }
  for (std::size_t i = 0; i < x_texts.size(); ++i) svg.text(x(x.ticks()[i]), kHeight - kBottom + 18, x_texts[i], "middle");
  svg.line(kLeft, kHeight - kBottom, kWidth - kRight, kHeight - kBottom, "axis");
  svg.text((kLeft + kWidth - kRight) / 2, kHeight - 6,
           std::string(unit > 1e6 ? "GB" : "MB") + " on disk" + (logarithmic_x ? " (logarithmic)" : ""), "middle");
  std::vector<Box> taken;
  if (reference) {
    const double level = y(reference->perplexity), baseline = level + (level > kHeight - kBottom - 24 ? -6 : 15);
    const std::string name = shortened(reference->model->name) + ", " + bytes_text(static_cast<std::uint64_t>(reference->bytes));
    svg.line(kLeft, level, kWidth - kRight, level, "reference");
    svg.text(kLeft + 4, baseline, name, "start", "label");
    taken.push_back({kLeft + 4, baseline - 11, kLetter * static_cast<double>(letters(name)), 14});
  }
  std::vector<std::pair<double, double>> front;
  for (Dot& dot : dots) {
    dot.x = x(dot.bytes / unit);
    dot.y = y(dot.perplexity);
    if (!dot.on_front) continue;
    if (!front.empty()) front.emplace_back(dot.x, front.back().second);
    front.emplace_back(dot.x, dot.y);
  }
  svg.polyline(front, "front-line");
  for (const Dot& dot : dots) {
    svg.circle(dot.x, dot.y, 5, dot.on_front ? "dot front" : "dot",
               dot.model->name + ": " + figure_text(dot.perplexity) + " at " + bytes_text(static_cast<std::uint64_t>(dot.bytes)));
  }
  label_dots(svg, dots, {kLeft, kTop - 6, kWidth - kLeft, kHeight - kBottom - kTop + 6}, std::move(taken));
  return "<figure><figcaption>Perplexity on " + html_escaped(text) + (logarithmic_y ? " (logarithmic)" : "") +
         " against size</figcaption>" + svg.finish() + "</figure>\n";
}

bool bits_range(const Report& report, double& low, double& high) {
  low = INFINITY;
  high = -INFINITY;
  for (const ModelReport& model : report.models) {
    double model_low, model_high;
    if (!varies(bits_grid(model), model_low, model_high)) continue;
    low = std::min(low, model_low);
    high = std::max(high, model_high);
  }
  return high > low;
}

std::string bits_heat_map(const ModelReport& model, double low, double high) {
  const Grid grid = bits_grid(model);
  double model_low, model_high;
  if (!varies(grid, model_low, model_high)) return {};
  constexpr double kLeft = 62, kCellHeight = 22, kTop = 4;
  const double cell = layer_width(static_cast<std::size_t>(grid.layers));
  const double height = kTop + kCellHeight * static_cast<double>(grid.kinds.size()) + 20;
  Svg svg(kLeft + cell * static_cast<double>(grid.layers), height, "Bits of each matrix of " + model.name, true);
  for (std::size_t row = 0; row < grid.kinds.size(); ++row) {
    const double top = kTop + kCellHeight * static_cast<double>(row);
    std::string kind = grid.kinds[row];
    if (kind.ends_with("_proj")) kind.resize(kind.size() - 5);
    svg.text(kLeft - 8, top + 15, kind, "end");
    for (std::int64_t layer = 0; layer < grid.layers; ++layer) {
      const auto found = grid.values.find({layer, grid.kinds[row]});
      if (found == grid.values.end()) continue;
      const double share = std::clamp((found->second - low) / (high - low), 0.0, 1.0), left = kLeft + cell * static_cast<double>(layer);
      svg.rectangle(left + 0.5, top + 0.5, cell - 1, kCellHeight - 1, "cell",
                    "layer " + std::to_string(layer) + " " + grid.kinds[row] + ": " + figure_text(found->second, 3) + " bits",
                    0.08 + 0.92 * share);
      if (cell >= 24)
        svg.text(left + cell / 2, top + 15, figure_text(found->second, 2), "middle", share > 0.55 ? "value on-dark" : "value");
    }
  }
  const std::int64_t step = cell >= 18 ? 1 : cell >= 9 ? 2 : 5;
  for (std::int64_t layer = 0; layer < grid.layers; layer += step) {
    svg.text(kLeft + cell * (static_cast<double>(layer) + 0.5), height - 4, std::to_string(layer), "middle");
  }
  return "<figure class=\"wide\"><figcaption>" + html_escaped(model.name) + "</figcaption><div class=\"scroll\">" + svg.finish() +
         "</div></figure>\n";
}

std::string sparsity_plot(const ModelReport& model) {
  if (!pruned(model)) return {};
  std::map<std::int64_t, std::pair<std::int64_t, std::int64_t>> layers;  // zeros, weights
  for (const MatrixCount& matrix : model.parameters->matrices) {
    layers[matrix.layer].first += matrix.zeros;
    layers[matrix.layer].second += matrix.weights;
  }
  constexpr double kLeft = 62, kTop = 10, kPlot = 90;
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
  return "<figure class=\"wide\"><figcaption>" + html_escaped(model.name) + "</figcaption><div class=\"scroll\">" + svg.finish() +
         "</div></figure>\n";
}

}  // namespace miq
