// Loss of each window above that of the first model. Differences, since hard windows are hard for every model: the windows' own losses
// would hide what a model does to them. Strips share one scale; many windows are put together.
#include <algorithm>
#include <cmath>

#include "miq/evaluate/report_plots.h"
#include "miq/evaluate/svg.h"

namespace miq {
namespace {

struct Strip {
  const ModelReport* model;
  std::vector<double> above;  // nats a token, one a window or run of windows
};

const Perplexity* measured(const ModelReport& model, const std::string& text) {
  for (const Perplexity& result : model.perplexity) {
    if (result.text == text && !result.failed() && result.summary.window_nll.size() >= 2) return &result;
  }
  return nullptr;
}

// Windows lie one behind the other: where one model was measured on fewer, those are the first ones of both.
bool same_windows(const Perplexity& a, const Perplexity& b) {
  return a.protocol == b.protocol && a.text_digest == b.text_digest && a.seqlen == b.seqlen && a.text_tokens == b.text_tokens;
}

constexpr std::size_t kMostBars = 240;

std::vector<double> differences(const std::vector<double>& from, const std::vector<double>& to, std::size_t windows) {
  const std::size_t run = (windows + kMostBars - 1) / kMostBars;
  std::vector<double> made;
  for (std::size_t begin = 0; begin < windows; begin += run) {
    const std::size_t end = std::min(begin + run, windows);
    double sum = 0;
    for (std::size_t i = begin; i < end; ++i) sum += to[i] - from[i];
    made.push_back(sum / static_cast<double>(end - begin));
  }
  return made;
}

double nice_ceiling(double value) {
  const double power = std::pow(10, std::floor(std::log10(value)));
  for (double factor : {1.0, 1.5, 2.0, 3.0, 5.0}) {
    if (factor * power >= value * (1 - 1e-9)) return factor * power;
  }
  return 10 * power;
}

// "0.15": no more digits than the level has.
std::string level_text(double level) {
  const std::string text = figure_text(level, 2);
  return text.find('.') != std::string::npos && text.ends_with('0') ? figure_text(level, 1) : text;
}

}  // namespace

std::string window_losses(const Report& report, const std::string& text) {
  const ModelReport* first = nullptr;
  std::vector<std::pair<const ModelReport*, const Perplexity*>> compared;
  std::size_t windows = 0;
  for (const ModelReport& model : report.models) {
    const Perplexity* result = measured(model, text);
    if (result == nullptr || (first != nullptr && !same_windows(*measured(*first, text), *result))) continue;
    if (first == nullptr) {
      first = &model;
      windows = result->summary.window_nll.size();
      continue;
    }
    windows = std::min(windows, result->summary.window_nll.size());
    compared.emplace_back(&model, result);
  }
  std::vector<Strip> strips;
  double highest = 0, lowest = 0;
  for (const auto& [model, result] : compared) {
    strips.push_back({model, differences(measured(*first, text)->summary.window_nll, result->summary.window_nll, windows)});
    for (double value : strips.back().above) {
      if (!std::isfinite(value)) continue;
      highest = std::max(highest, value);
      lowest = std::min(lowest, value);
    }
  }
  if (strips.empty() || !(highest > lowest)) return {};
  // Room for what lies below zero only where something does.
  constexpr double kWidth = 560, kLeft = 44, kRight = 8, kStrip = 44, kName = 18;
  const double top_value = highest > 0 ? nice_ceiling(highest) : 0, bottom_value = lowest < -0.02 * highest ? -nice_ceiling(-lowest) : 0;
  const double height = (kStrip + kName) * static_cast<double>(strips.size()) + 22;
  Svg svg(kWidth, height, "Loss in each window of " + text + " above that of " + first->name);
  const auto count = static_cast<double>(strips.front().above.size());
  const double step = (kWidth - kLeft - kRight) / count;
  for (std::size_t s = 0; s < strips.size(); ++s) {
    const double top = (kStrip + kName) * static_cast<double>(s) + kName;
    const auto y = [&](double value) { return top + kStrip * (top_value - value) / (top_value - bottom_value); };
    double mean = 0;
    for (double value : strips[s].above) mean += value / count;
    svg.text(kLeft, top - 5, strips[s].model->name + ", mean " + (mean > 0 ? "+" : "") + figure_text(mean, 3), "start", "label");
    svg.line(kLeft, y(top_value), kWidth - kRight, y(top_value), "grid");
    svg.text(kLeft - 6, y(top_value) + 8, level_text(top_value), "end");
    if (bottom_value < 0) {
      svg.line(kLeft, y(bottom_value), kWidth - kRight, y(bottom_value), "grid");
      svg.text(kLeft - 6, y(bottom_value), level_text(bottom_value), "end");
    }
    for (std::size_t i = 0; i < strips[s].above.size(); ++i) {
      const double value = strips[s].above[i];
      if (!std::isfinite(value)) continue;
      const double from = y(std::max(value, 0.0)), to = y(std::min(value, 0.0));
      svg.rectangle(kLeft + step * static_cast<double>(i) + 0.1 * step, from, 0.8 * step, std::max(0.3, to - from), value > 0 ? "bar warm" : "bar",
                    "window " + std::to_string(i * windows / strips[s].above.size() + 1) + ": " + (value > 0 ? "+" : "") + figure_text(value, 3));
    }
    svg.line(kLeft, y(0), kWidth - kRight, y(0), "axis");
  }
  svg.text(kLeft, height - 5, "window 1", "start");
  svg.text(kWidth - kRight, height - 5, std::to_string(windows), "end");
  return "<figure><figcaption>" + html_escaped(text) + ": nats a token above " + html_escaped(first->name) + "</figcaption><div class=\"scroll\">" +
         svg.finish() + "</div></figure>\n";
}

}  // namespace miq
