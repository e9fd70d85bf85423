// A layer's signature is its JSON entry without its number: equal neighbours are folded.
#include "miq/tools/inspect_model.h"

#include <algorithm>

#include "miq/model/architecture.h"

namespace miq {
namespace {

Json tensor_entry(const Model& model, const std::string& full_name, std::string_view shown, Part part) {
  const auto found = model.tensors.find(full_name);
  if (found == model.tensors.end()) return {{"name", shown}, {"part", part_name(part)}, {"missing", true}};
  const Tensor& tensor = found->second;
  return {{"name", shown}, {"part", part_name(part)}, {"shape", tensor.shape}, {"dtype", dtype_name(tensor.dtype)}, {"encoding", encoding_name(tensor.encoding)}};
}

// "experts.{}.w1.weight", 0, 7 -> "experts.0-7.w1.weight"
std::string with_experts(std::string_view rule, std::int64_t first, std::int64_t last) {
  std::string name(rule);
  const auto place = name.find("{}");
  if (place != std::string::npos) name.replace(place, 2, std::to_string(first) + (last > first ? "-" + std::to_string(last) : ""));
  return name;
}

Json layer_entry(const Model& model, std::int64_t layer) {
  const Architecture& row = architecture(model.config.architecture);
  struct Run {
    const LayerTensorRule* rule;
    std::int64_t first, last;
    Json entry;  // without a name
  };
  std::vector<Run> runs;
  for (const LayerTensor& tensor : layer_tensors(model.config, layer)) {
    Json entry = tensor_entry(model, layer_tensor_name(row, layer, tensor.name), "", tensor.rule->part);
    const auto same = std::ranges::find_if(runs, [&](const Run& run) { return run.rule == tensor.rule && run.last + 1 == tensor.expert && run.entry == entry; });
    if (tensor.expert >= 0 && same != runs.end()) {
      same->last = tensor.expert;
    } else {
      runs.push_back({tensor.rule, tensor.expert, tensor.expert, std::move(entry)});
    }
  }
  Json tensors = Json::array();
  for (Run& run : runs) {
    run.entry["name"] = with_experts(run.rule->name, run.first, run.last);
    tensors.push_back(std::move(run.entry));
  }
  Json entry = model.config.to_json().at("layers").at(static_cast<std::size_t>(layer));
  if (model.config.layers[static_cast<std::size_t>(layer)].identity) entry["identity"] = true;
  entry["tensors"] = std::move(tensors);
  return entry;
}

std::string tensor_line(const Json& tensor, std::size_t indent) {
  std::string line = std::string(indent, ' ') + printable(tensor.at("name").get<std::string>());
  if (tensor.contains("missing")) return line + "  missing\n";
  line.resize(std::max<std::size_t>(line.size() + 2, 48), ' ');
  std::string shape;
  for (const Json& size : tensor.at("shape")) shape += (shape.empty() ? "" : ", ") + size.dump();
  line += "[" + shape + "]";
  line.resize(std::max<std::size_t>(line.size() + 2, 66), ' ');
  line += tensor.at("dtype").get<std::string>();
  line.resize(std::max<std::size_t>(line.size() + 2, 76), ' ');
  return line + tensor.at("encoding").get<std::string>() + "\n";
}

std::string layers_line(const Json& layers) {
  const auto from = layers.at("from").get<std::int64_t>(), to = layers.at("to").get<std::int64_t>();
  std::string line = from == to ? "  layer " + std::to_string(from) : "  layers " + std::to_string(from) + "-" + std::to_string(to) + " (" + std::to_string(to - from + 1) + " alike)";
  if (layers.value("identity", false)) return line + ": deleted, hands its input on\n";
  std::string sizes;
  for (const auto& [key, value] : layers.items()) {
    if (key != "from" && key != "to" && key != "tensors" && value.is_number() && value != 0) sizes += (sizes.empty() ? ": " : ", ") + key + " " + value.dump();
  }
  return line + sizes + "\n";
}

}  // namespace

std::string shape_text(const Shape& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::string printable(std::string text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    // 0xC2 0x80 to 0xC2 0x9F are control characters too.
    if (byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0) text[i] = text[i + 1] = '?';
    if (byte < 0x20 || byte == 0x7F) text[i] = '?';
  }
  return text;
}

std::string row(std::string_view what, const std::string& value) {
  std::string line(what);
  line.resize(std::max<std::size_t>(line.size() + 1, 16), ' ');
  return line + printable(value) + "\n";
}

Json model_structure(const Model& model) {
  Json globals = Json::array(), layers = Json::array();
  for (const ExpectedTensor& tensor : expected_tensors(model.config)) {
    if (tensor.layer < 0) globals.push_back(tensor_entry(model, tensor.name, tensor.name, tensor.part));
  }
  Json previous;
  for (std::size_t i = 0; i < model.config.layers.size(); ++i) {
    Json entry = layer_entry(model, static_cast<std::int64_t>(i));
    if (i > 0 && entry == previous) {
      layers.back()["to"] = i;
      continue;
    }
    previous = entry;
    entry["from"] = entry["to"] = i;
    layers.push_back(std::move(entry));
  }
  Json structure{{"globals", std::move(globals)}, {"layers", std::move(layers)}};
  if (model.config.tied_head) structure["head"] = "tied to the embedding";
  return structure;
}

std::string structure_tree(const Json& structure) {
  std::string text = "\nstructure\n", behind;
  for (const Json& tensor : structure.at("globals")) {
    const std::string part = tensor.at("part");
    const bool before = part == part_name(Part::Embedding) || part == part_name(Part::PositionEmbedding);
    (before ? text : behind) += tensor_line(tensor, 2);
  }
  for (const Json& layers : structure.at("layers")) {
    text += layers_line(layers);
    for (const Json& tensor : layers.at("tensors")) text += tensor_line(tensor, 4);
  }
  text += behind;
  if (structure.contains("head")) text += "  head: " + structure["head"].get<std::string>() + "\n";
  return text;
}

}  // namespace miq
