// The table of architectures and what can be read off a row without knowing which one it is.
#include "miq/model/architecture.h"

#include "miq/base/error.h"
#include "miq/model/architecture_llama.h"

namespace miq {
namespace {

constexpr const Architecture* kArchitectures[] = {&kLlama};

}  // namespace

std::span<const Architecture* const> architectures() { return kArchitectures; }

const Architecture& architecture(std::string_view name) {
  std::string known;
  for (const Architecture* row : kArchitectures) {
    if (row->name == name) return *row;
    known += (known.empty() ? "" : ", ") + std::string(row->name);
  }
  throw Error("architecture '" + std::string(name) + "' is not supported; supported: " + known);
}

std::string_view input_site_name(InputSite site) {
  switch (site) {
    case InputSite::Attention: return "attention";
    case InputSite::AttentionOutput: return "attention_output";
    case InputSite::Mlp: return "mlp";
    case InputSite::MlpOutput: return "mlp_output";
  }
  return "";
}

std::string_view part_name(Part part) {
  switch (part) {
    case Part::Embedding: return "embedding";
    case Part::Attention: return "attention";
    case Part::Mlp: return "mlp";
    case Part::InputNorm: return "input_norm";
    case Part::PostAttentionNorm: return "post_attention_norm";
    case Part::FinalNorm: return "final_norm";
    case Part::Head: return "head";
  }
  return "";
}

std::string layer_tensor_name(const Architecture& row, std::int64_t layer, std::string_view name) {
  return std::string(row.layer_prefix) + std::to_string(layer) + "." + std::string(name);
}

std::string_view short_linear_name(std::string_view name) {
  if (name.ends_with(".weight")) name.remove_suffix(7);
  const auto dot = name.rfind('.');
  return dot == std::string_view::npos ? name : name.substr(dot + 1);
}

std::vector<ExpectedTensor> expected_tensors(const Config& config) {
  const Architecture& row = architecture(config.architecture);
  std::vector<ExpectedTensor> expected;
  for (const GlobalTensorRule& rule : row.globals) {
    if (rule.part == Part::Head && config.tied_head) continue;
    expected.push_back({std::string(rule.name), rule.shape(config), rule.part, -1, false});
  }
  for (std::size_t layer = 0; layer < config.layers.size(); ++layer) {
    for (const LayerTensorRule& rule : row.layer) {
      expected.push_back({layer_tensor_name(row, static_cast<std::int64_t>(layer), rule.name), rule.shape(config, config.layers[layer]),
                          rule.part, static_cast<std::int64_t>(layer), rule.linear});
    }
  }
  return expected;
}

}  // namespace miq
