// Small inline drawings for the HTML report: text building, escaping, axes. Colours come from the page's
// style sheet by class, so that one drawing serves light, dark and print.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace miq {

// & < > " ' as entities; control characters (which HTML forbids) as U+FFFD. For text and attribute values.
std::string html_escaped(std::string_view text);

// "12.5": short, with a point whatever the locale.
std::string coordinate(double value);

class Svg {
 public:
  // `label` says what the drawing shows, for readers that cannot see it. A drawing with `fixed_width` has its own
  // width in pixels and scrolls where there is less room; the others fill their column.
  Svg(double width, double height, std::string_view label, bool fixed_width = false);
  void line(double x1, double y1, double x2, double y2, std::string_view css_class);
  void polyline(const std::vector<std::pair<double, double>>& points, std::string_view css_class);
  void circle(double x, double y, double radius, std::string_view css_class, std::string_view tooltip);
  // `opacity` of the fill; under 0 leaves it to the class.
  void rectangle(double x, double y, double width, double height, std::string_view css_class, std::string_view tooltip = {},
                 double opacity = -1);
  // `anchor`: "start", "middle" or "end".
  void text(double x, double y, std::string_view text, std::string_view anchor, std::string_view css_class = "tick");
  std::string finish() const { return body_ + "</svg>\n"; }

 private:
  std::string body_;
};

// Values to pixels, linear or logarithmic, over a range widened so that its ends lie on ticks or beside them.
class Scale {
 public:
  // REQUIRES: values finite, and positive where logarithmic.
  Scale(double low, double high, double pixel_low, double pixel_high, bool logarithmic);
  double operator()(double value) const;
  const std::vector<double>& ticks() const { return ticks_; }

 private:
  double low_, high_, pixel_low_, pixel_high_;
  bool logarithmic_;
  std::vector<double> ticks_;
};

}  // namespace miq
