// The table of architectures and what can be read off a row without knowing which one it is.
#include "miq/model/architecture.h"

#include <algorithm>

#include "miq/base/error.h"
#include "miq/model/architecture_llama.h"
#include "miq/model/architecture_mistral.h"
#include "miq/model/architecture_mixtral.h"
#include "miq/model/architecture_opt.h"
#include "miq/model/architecture_qwen.h"
#include "miq/model/architecture_qwen2.h"
#include "miq/model/architecture_qwen2_moe.h"
#include "miq/model/architecture_qwen3.h"
#include "miq/model/architecture_qwen3_moe.h"

namespace miq {
namespace {

constexpr const Architecture* kArchitectures[] = {&kLlama, &kMistral, &kMixtral, &kOpt, &kQwen, &kQwen2, &kQwen2Moe, &kQwen3, &kQwen3Moe};

constexpr std::string_view kExpert = "{}";

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
    case Part::PositionEmbedding: return "position_embedding";
    case Part::Attention: return "attention";
    case Part::QueryKeyNorm: return "query_key_norm";
    case Part::Mlp: return "mlp";
    case Part::Router: return "router";
    case Part::InputNorm: return "input_norm";
    case Part::PostAttentionNorm: return "post_attention_norm";
    case Part::Rotation: return "rotation";
    case Part::FinalNorm: return "final_norm";
    case Part::Projection: return "projection";
    case Part::Head: return "head";
  }
  return "";
}

std::string layer_tensor_name(const Architecture& row, std::int64_t layer, std::string_view name) {
  return std::string(row.layer_prefix) + std::to_string(layer) + "." + std::string(name);
}

std::string short_linear_name(std::string_view name) {
  if (name.ends_with(".weight")) name.remove_suffix(7);
  for (const std::string_view kin : {"experts.", "shared_expert."}) {
    if (const auto place = name.find(kin); place != std::string_view::npos) return std::string(name.substr(place));
  }
  const auto dot = name.rfind('.');
  return std::string(dot == std::string_view::npos ? name : name.substr(dot + 1));
}

std::string expert_name(std::string_view name, std::int64_t expert) {
  std::string written(name);
  const auto place = written.find(kExpert);
  if (place != std::string::npos) written.replace(place, kExpert.size(), std::to_string(expert));
  return written;
}

std::string_view rule_name(const Architecture& row, Role role, bool bias) {
  for (const LayerTensorRule& rule : row.layer) {
    if (rule.role == role && rule.bias == bias) return rule.name;
  }
  return {};
}

std::string_view global_name(const Architecture& row, Role role, bool bias) {
  for (const GlobalTensorRule& rule : row.globals) {
    if (rule.role == role && rule.bias == bias) return rule.name;
  }
  return {};
}

std::vector<LayerTensor> layer_tensors(const Config& config, std::int64_t layer) {
  const LayerConfig& sizes = config.layers.at(static_cast<std::size_t>(layer));
  std::vector<LayerTensor> tensors;
  if (sizes.identity) return tensors;
  const std::span<const LayerTensorRule> rules = architecture(config.architecture).layer;
  const auto add = [&](const LayerTensorRule& rule, std::int64_t expert) {
    if (rule.present && !rule.present(config, sizes)) return;
    tensors.push_back({expert < 0 ? std::string(rule.name) : expert_name(rule.name, expert), &rule, rule.shape(config, sizes), expert});
  };
  for (std::size_t i = 0; i < rules.size();) {
    std::size_t end = i;
    while (end < rules.size() && rules[end].name.find(kExpert) != std::string_view::npos) ++end;
    if (end == i) {
      add(rules[i++], -1);
      continue;
    }
    // A run of expert rules: one expert after the other, as files have them.
    for (std::int64_t expert = 0; expert < sizes.experts; ++expert) {
      for (std::size_t rule = i; rule < end; ++rule) add(rules[rule], expert);
    }
    i = end;
  }
  return tensors;
}

std::vector<InputPlace> input_places(const Config& config, std::int64_t layer) {
  std::vector<InputPlace> places;
  for (const LayerTensor& tensor : layer_tensors(config, layer)) {
    if (tensor.linear()) places.push_back(tensor.place());
  }
  std::sort(places.begin(), places.end());
  places.erase(std::unique(places.begin(), places.end()), places.end());
  return places;
}

std::vector<ExpectedTensor> expected_tensors(const Config& config) {
  const Architecture& row = architecture(config.architecture);
  std::vector<ExpectedTensor> expected;
  for (const GlobalTensorRule& rule : row.globals) {
    if (rule.role == Role::Head && !rule.bias && config.tied_head) continue;
    if (rule.present && !rule.present(config)) continue;
    expected.push_back({std::string(rule.name), rule.shape(config), rule.role, rule.bias, rule.part, -1, false});
  }
  for (std::int64_t layer = 0; layer < static_cast<std::int64_t>(config.layers.size()); ++layer) {
    for (LayerTensor& tensor : layer_tensors(config, layer)) {
      expected.push_back({layer_tensor_name(row, layer, tensor.name), std::move(tensor.shape), tensor.rule->role, tensor.rule->bias,
                          tensor.rule->part, layer, tensor.rule->linear});
    }
  }
  return expected;
}

}  // namespace miq
