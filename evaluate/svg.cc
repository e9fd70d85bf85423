// Ticks at 1, 2 or 5 times a power of ten; on logarithmic axes that span little, linear steps are used so
// that there are never fewer than two.
#include "miq/evaluate/svg.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace miq {
namespace {

std::string attribute(std::string_view name, double value) { return " " + std::string(name) + "=\"" + coordinate(value) + "\""; }
std::string css(std::string_view css_class) { return " class=\"" + std::string(css_class) + "\""; }

std::vector<double> linear_ticks(double low, double high) {
  const double rough = (high - low) / 5;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  const double factor = rough / power;
  const double step = power * (factor <= 1 ? 1 : factor <= 2 ? 2 : factor <= 5 ? 5 : 10);
  std::vector<double> ticks;
  for (double i = std::ceil(low / step - 1e-9); i * step <= high * (1 + 1e-9); ++i) ticks.push_back(i * step);
  return ticks;
}

std::vector<double> logarithmic_ticks(double low, double high) {
  std::vector<double> ticks;
  for (double power = std::pow(10, std::floor(std::log10(low))); power <= high; power *= 10) {
    for (double factor : {1.0, 2.0, 5.0}) {
      if (factor * power >= low * (1 - 1e-9) && factor * power <= high * (1 + 1e-9)) ticks.push_back(factor * power);
    }
  }
  return ticks.size() >= 3 ? ticks : linear_ticks(low, high);
}

}  // namespace

std::string html_escaped(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (char c : text) {
    switch (c) {
      case '&': result += "&amp;"; break;
      case '<': result += "&lt;"; break;
      case '>': result += "&gt;"; break;
      case '"': result += "&quot;"; break;
      case '\'': result += "&#39;"; break;
      default:
        if ((static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7F) {
          result += "\xEF\xBF\xBD";
        } else {
          result += c;
        }
    }
  }
  return result;
}

std::string coordinate(double value) {
  const auto tenths = static_cast<long long>(std::llround(value * 10));
  std::string text = std::to_string(std::llabs(tenths) / 10);
  if (tenths % 10 != 0) text += "." + std::to_string(std::llabs(tenths) % 10);
  return tenths < 0 ? "-" + text : text;
}

Svg::Svg(double width, double height, std::string_view label, bool fixed_width) {
  body_ = "<svg" + (fixed_width ? " style=\"width:" + coordinate(width) + "px\"" : std::string()) + " viewBox=\"0 0 " + coordinate(width) +
          " " + coordinate(height) + "\" role=\"img\" aria-label=\"" + html_escaped(label) + "\">\n";
}

void Svg::line(double x1, double y1, double x2, double y2, std::string_view css_class) {
  body_ += "<line" + attribute("x1", x1) + attribute("y1", y1) + attribute("x2", x2) + attribute("y2", y2) + css(css_class) + "/>\n";
}

void Svg::polyline(const std::vector<std::pair<double, double>>& points, std::string_view css_class) {
  body_ += "<polyline points=\"";
  for (const auto& [x, y] : points) body_ += coordinate(x) + "," + coordinate(y) + " ";
  body_ += "\"" + css(css_class) + "/>\n";
}

void Svg::circle(double x, double y, double radius, std::string_view css_class, std::string_view tooltip) {
  body_ += "<circle" + attribute("cx", x) + attribute("cy", y) + attribute("r", radius) + css(css_class) + "><title>" +
           html_escaped(tooltip) + "</title></circle>\n";
}

void Svg::rectangle(double x, double y, double width, double height, std::string_view css_class, std::string_view tooltip, double opacity) {
  body_ += "<rect" + attribute("x", x) + attribute("y", y) + attribute("width", width) + attribute("height", height) + css(css_class);
  if (opacity >= 0) {
    char text[32];
    std::snprintf(text, sizeof text, "%d", static_cast<int>(std::lround(100 * opacity)));
    body_ += " fill-opacity=\"" + std::string(text) + "%\"";
  }
  body_ += tooltip.empty() ? "/>\n" : "><title>" + html_escaped(tooltip) + "</title></rect>\n";
}

void Svg::text(double x, double y, std::string_view text, std::string_view anchor, std::string_view css_class) {
  body_ += "<text" + attribute("x", x) + attribute("y", y) + " text-anchor=\"" + std::string(anchor) + "\"" + css(css_class) + ">" +
           html_escaped(text) + "</text>\n";
}

Scale::Scale(double low, double high, double pixel_low, double pixel_high, bool logarithmic)
    : low_(low), high_(high), pixel_low_(pixel_low), pixel_high_(pixel_high), logarithmic_(logarithmic) {
  if (logarithmic_) {
    const double margin = std::max(1.05, std::pow(high_ / low_, 0.08));
    low_ /= margin;
    high_ *= margin;
    ticks_ = logarithmic_ticks(low_, high_);
  } else {
    const double margin = high_ > low_ ? 0.08 * (high_ - low_) : std::max(1e-6, 0.1 * std::fabs(high_));
    low_ = low_ >= 0 ? std::max(0.0, low_ - margin) : low_ - margin;
    high_ += margin;
    ticks_ = linear_ticks(low_, high_);
  }
}

double Scale::operator()(double value) const {
  const double share = logarithmic_ ? std::log(value / low_) / std::log(high_ / low_) : (value - low_) / (high_ - low_);
  return pixel_low_ + share * (pixel_high_ - pixel_low_);
}

}  // namespace miq
