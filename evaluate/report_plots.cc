// Dots carry their names beside them (placed greedily where they overlap nothing), so no legend and no
// colour coding is needed; colour only tells the front from the rest.
#include "miq/evaluate/report_plots.h"

#include <algorithm>
#include <array>
#include <cmath>
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

// Those measured as the first one was: others do not belong into one drawing. `left_out` gets their names.
std::vector<Dot> dots_of(const Report& report, const std::string& text, std::string& left_out) {
  std::vector<Dot> dots;
  const Perplexity* first = nullptr;
  for (const ModelReport& model : report.models) {
    if (!model.size || model.size->file_bytes == 0) continue;
    for (const Perplexity& result : model.perplexity) {
      if (result.text != text || result.failed()) continue;
      if (first == nullptr) first = &result;
      if (result.protocol == first->protocol && result.text_digest == first->text_digest && result.seqlen == first->seqlen &&
          result.windows == first->windows) {
        dots.push_back({&model, static_cast<double>(model.size->file_bytes), result.summary.perplexity});
      } else {
        left_out += (left_out.empty() ? "" : ", ") + model.name;
      }
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

}  // namespace

std::string perplexity_plot(const Report& report, const std::string& text) {
  std::string left_out;
  std::vector<Dot> dots = dots_of(report, text, left_out);
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
         " against size" +
         (left_out.empty() ? "" : html_escaped("; measured otherwise and left out: " + left_out)) + "</figcaption><div class=\"scroll\">" + svg.finish() + "</div></figure>\n";
}

}  // namespace miq
