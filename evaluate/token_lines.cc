// Written by hand: nlohmann's dump would turn each float into a double's seventeen digits.
#include "miq/evaluate/token_lines.h"

#include <cmath>
#include <cstdio>

#include "miq/formats/json.h"

namespace miq {
namespace {

std::string quoted(const std::string& text) { return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace); }

void add_values(std::string& line, const char* key, const std::vector<float>& values) {
  line += std::string(",\"") + key + "\":[";
  for (std::size_t i = 0; i < values.size(); ++i) {
    char number[32] = "null";
    if (std::isfinite(values[i])) std::snprintf(number, sizeof number, "%.9g", static_cast<double>(values[i]));
    line += (i > 0 ? "," : "") + std::string(number);
  }
  line += "]";
}

template <typename T>
void add_integers(std::string& line, const char* key, const std::vector<T>& values) {
  line += std::string(",\"") + key + "\":[";
  for (std::size_t i = 0; i < values.size(); ++i) line += (i > 0 ? "," : "") + std::to_string(values[i]);
  line += "]";
}

}  // namespace

std::string token_lines(const std::string& model, const TextMeasures& measures) {
  std::string lines;
  for (std::size_t t = 0; t < measures.losses.size(); ++t) {
    const WindowPlan& plan = measures.plans[t];
    for (std::size_t w = 0; w < measures.losses[t].size(); ++w) {
      const Window& window = plan.windows[w];
      const std::vector<float>& losses = measures.losses[t][w];
      std::vector<std::int32_t> targets;
      for (std::size_t i = 0; i < losses.size(); ++i) targets.push_back(plan.ids(window)[static_cast<std::size_t>(window.first) + i + 1]);
      lines += "{\"model\":" + quoted(model) + ",\"text\":" + quoted(measures.perplexity[t].text) + ",\"window\":" + std::to_string(w) +
               ",\"begin\":" + std::to_string(window.begin) + ",\"first\":" + std::to_string(window.first);
      add_integers(lines, "targets", targets);
      add_values(lines, "losses", losses);
      if (w < measures.tokens[t].size() && measures.tokens[t][w].divergence.size() == losses.size() && !losses.empty()) {
        add_values(lines, "divergence", measures.tokens[t][w].divergence);
        add_integers(lines, "same_top", measures.tokens[t][w].same_top);
      }
      lines += "}\n";
    }
  }
  return lines;
}

}  // namespace miq
