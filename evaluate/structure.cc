// The record comes from a file that anyone may have written: every value is checked for its type before it is used.
#include "miq/evaluate/structure.h"

#include <algorithm>

#include "miq/model/architecture.h"

namespace miq {
namespace {

double number(const Json& object, const char* key, double otherwise = 0) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? found->get<double>() : otherwise;
}

std::int64_t count(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_integer()) return 0;
  return std::clamp<std::int64_t>(found->get<std::int64_t>(), 0, std::int64_t{1} << 40);
}

// "model.layers.12.self_attn.q_proj.weight" -> 12; the first part that is a number.
std::optional<std::int64_t> layer_of(std::string_view name) {
  while (!name.empty()) {
    const std::string_view part = name.substr(0, name.find('.'));
    name.remove_prefix(std::min(part.size() + 1, name.size()));
    if (part.empty() || part.size() > 5 || part.find_first_not_of("0123456789") != std::string_view::npos) continue;
    return std::stoll(std::string(part));
  }
  return std::nullopt;
}

std::vector<std::vector<double>> block_rows(const Json& json) {
  std::vector<std::vector<double>> rows;
  if (!json.is_array() || json.size() > static_cast<std::size_t>(kInformationBlocks)) return {};
  for (const Json& entry : json) {
    if (!entry.is_array() || entry.size() != json.size()) return {};
    std::vector<double>& row = rows.emplace_back();
    for (const Json& value : entry) {
      if (!value.is_number()) return {};
      row.push_back(value.get<double>());
    }
  }
  return rows;
}

std::optional<MatrixOutcome> matrix_outcome(const Json& entry) {
  if (!entry.is_object() || !entry.contains("name") || !entry["name"].is_string()) return std::nullopt;
  const std::string& name = entry["name"].get_ref<const std::string&>();
  const auto layer = layer_of(name);
  if (!layer) return std::nullopt;
  MatrixOutcome made;
  made.layer = *layer;
  made.name = short_linear_name(name);
  made.error = number(entry, "error", NAN);
  made.refined = number(entry, "refined");
  made.fallback = entry.contains("fallback");
  if (const auto groups = entry.find("groups"); groups != entry.end() && groups->is_object()) {
    made.groups = count(*groups, "count");
    made.smallest_group = count(*groups, "smallest");
    made.largest_group = count(*groups, "largest");
  }
  if (const auto mi = entry.find("mutual_information"); mi != entry.end() && mi->is_object()) {
    made.information = {number(*mi, "mean"), number(*mi, "largest"), number(*mi, "within"), number(*mi, "between"), {}};
    if (mi->contains("blocks")) made.information->blocks = block_rows((*mi)["blocks"]);
  }
  return made;
}

std::optional<LayerOutcome> layer_outcome(const Json& entry) {
  if (!entry.is_object() || !entry.contains("layer")) return std::nullopt;
  LayerOutcome made{count(entry, "layer"), count(entry, "heads"), count(entry, "mlp_width"), count(entry, "output"), 0};
  if (made.layer >= kMostLayers) return std::nullopt;
  if (const auto removed = entry.find("removed"); removed != entry.end())
    made.removed = removed->is_boolean() ? (removed->get<bool>() ? 1.0 : 0.0) : number(entry, "removed");
  const bool reshaped = made.heads > 0 || made.width > 0 || entry.contains("removed");
  return reshaped ? std::optional(made) : std::nullopt;
}

}  // namespace

std::optional<StructureFigures> structure_figures(const Json& statistics) {
  StructureFigures figures;
  if (!statistics.is_object()) return std::nullopt;
  if (const auto matrices = statistics.find("matrices"); matrices != statistics.end() && matrices->is_array()) {
    for (const Json& entry : *matrices) {
      if (auto made = matrix_outcome(entry)) figures.matrices.push_back(std::move(*made));
    }
  }
  if (const auto layers = statistics.find("layers"); layers != statistics.end() && layers->is_array()) {
    for (const Json& entry : *layers) {
      if (auto made = layer_outcome(entry)) figures.layers.push_back(*made);
    }
  }
  if (figures.matrices.empty() && figures.layers.empty()) return std::nullopt;
  return figures;
}

}  // namespace miq
