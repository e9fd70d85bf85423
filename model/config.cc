// Config <-> our own JSON: the normalised form in containers. Every field is always written; fields that
// a later version added have defaults, so that older containers stay readable.
#include "miq/model/config.h"

#include <algorithm>

#include "miq/model/architecture.h"
#include "miq/model/config_fields.h"

namespace miq {
namespace {

template <typename Kind>
struct Name {
  Kind kind;
  const char* name;
};
constexpr Name<NormKind> kNorms[] = {{NormKind::Rms, "rms"}, {NormKind::Layer, "layer"}, {NormKind::FusedRms, "fused_rms"}};
constexpr Name<Activation> kActivations[] = {
    {Activation::Silu, "silu"}, {Activation::Relu, "relu"}, {Activation::Gelu, "gelu"}, {Activation::GeluTanh, "gelu_tanh"}};
constexpr Name<Positions> kPositions[] = {{Positions::Rotary, "rotary"}, {Positions::Learned, "learned"}};
constexpr Name<RopeScaling::Kind> kScalings[] = {
    {RopeScaling::Kind::None, "none"}, {RopeScaling::Kind::Linear, "linear"}, {RopeScaling::Kind::Llama3, "llama3"},
    {RopeScaling::Kind::Dynamic, "dynamic"}, {RopeScaling::Kind::Yarn, "yarn"}, {RopeScaling::Kind::QwenDynamic, "qwen_dynamic"}};

template <typename Kind, std::size_t N>
const char* name_of(const Name<Kind> (&names)[N], Kind kind) {
  for (const auto& entry : names) {
    if (entry.kind == kind) return entry.name;
  }
  return "";
}

template <typename Kind, std::size_t N>
Kind kind_of(const Name<Kind> (&names)[N], const ConfigFields& fields, const char* key) {
  const std::string text = fields.text(key);
  std::string known;
  for (const auto& entry : names) {
    if (text == entry.name) return entry.kind;
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  fields.refuse(key, "one of " + known);
}

RopeScaling rope_scaling_from_json(const ConfigFields& fields) {
  RopeScaling scaling;
  scaling.kind = kind_of(kScalings, fields, "kind");
  if (scaling.kind == RopeScaling::Kind::None) return scaling;
  if (scaling.kind != RopeScaling::Kind::QwenDynamic) scaling.factor = fields.positive("factor");
  if (scaling.kind != RopeScaling::Kind::Linear) scaling.original_max_positions = fields.size("original_max_positions");
  if (scaling.kind == RopeScaling::Kind::Llama3) {
    scaling.low_frequency_factor = fields.positive("low_frequency_factor");
    scaling.high_frequency_factor = fields.positive("high_frequency_factor");
  } else if (scaling.kind == RopeScaling::Kind::Yarn) {
    scaling.attention_factor = fields.positive("attention_factor");
    scaling.beta_fast = fields.positive("beta_fast");
    scaling.beta_slow = fields.positive("beta_slow");
    scaling.truncate = fields.flag("truncate");
  }
  return scaling;
}

Json rope_scaling_to_json(const RopeScaling& scaling) {
  Json json{{"kind", name_of(kScalings, scaling.kind)}};
  if (scaling.kind == RopeScaling::Kind::None) return json;
  if (scaling.kind != RopeScaling::Kind::QwenDynamic) json["factor"] = scaling.factor;
  if (scaling.kind != RopeScaling::Kind::Linear) json["original_max_positions"] = scaling.original_max_positions;
  if (scaling.kind == RopeScaling::Kind::Llama3) {
    json["low_frequency_factor"] = scaling.low_frequency_factor;
    json["high_frequency_factor"] = scaling.high_frequency_factor;
  } else if (scaling.kind == RopeScaling::Kind::Yarn) {
    json["attention_factor"] = scaling.attention_factor;
    json["beta_fast"] = scaling.beta_fast;
    json["beta_slow"] = scaling.beta_slow;
    json["truncate"] = scaling.truncate;
  }
  return json;
}

// Sizes that a layer may lack are written only where they say something.
struct OptionalSize {
  const char* key;
  std::int64_t LayerConfig::* field;
};
constexpr OptionalSize kOptionalSizes[] = {
    {"window", &LayerConfig::window}, {"experts", &LayerConfig::experts}, {"shared_width", &LayerConfig::shared_width},
    {"input", &LayerConfig::input},   {"middle", &LayerConfig::middle},   {"output", &LayerConfig::output}};

Json layer_to_json(const LayerConfig& layer) {
  if (layer.identity) return {{"identity", true}};
  Json json{{"heads", layer.heads}, {"kv_heads", layer.kv_heads}, {"head_dim", layer.head_dim}, {"mlp_width", layer.mlp_width}};
  for (const OptionalSize& optional : kOptionalSizes) {
    if (layer.*optional.field != 0) json[optional.key] = layer.*optional.field;
  }
  return json;
}

LayerConfig layer_from_json(const ConfigFields& fields, const Config& config) {
  LayerConfig layer;
  layer.identity = fields.flag_or("identity", false);
  if (layer.identity) return layer;
  layer.heads = fields.size("heads");
  layer.kv_heads = fields.size("kv_heads");
  layer.head_dim = fields.size("head_dim");
  layer.mlp_width = fields.size("mlp_width");
  for (const OptionalSize& optional : kOptionalSizes) layer.*optional.field = fields.size_or(optional.key, 0);
  check_layer(config, layer, fields.name());
  return layer;
}

std::int64_t or_hidden(const Config& config, std::int64_t width) { return width == 0 ? config.hidden : width; }

}  // namespace

std::int64_t input_width(const Config& config, const LayerConfig& layer) { return or_hidden(config, layer.input); }
std::int64_t middle_width(const Config& config, const LayerConfig& layer) { return or_hidden(config, layer.middle); }
std::int64_t output_width(const Config& config, const LayerConfig& layer) { return or_hidden(config, layer.output); }

std::int64_t embedding_width(const Config& config) {
  if (config.sliced && !config.layers.empty()) return input_width(config, config.layers.front());
  return or_hidden(config, config.embedding);
}

std::int64_t head_width(const Config& config) {
  if (config.sliced && !config.layers.empty()) return output_width(config, config.layers.back());
  return or_hidden(config, config.embedding);
}

std::int64_t sliced_width(std::int64_t hidden, double sparsity, std::int64_t round_interval) {
  const auto width = static_cast<std::int64_t>((1 - sparsity) * static_cast<double>(hidden));
  return width - width % std::max<std::int64_t>(round_interval, 1);
}

void check_layer(const Config& config, const LayerConfig& layer, const std::string& name) {
  if (layer.heads % layer.kv_heads != 0) {
    throw FormatError(name, std::to_string(layer.heads) + " heads are no multiple of " + std::to_string(layer.kv_heads) + " key/value heads");
  }
  if (config.positions == Positions::Rotary && layer.head_dim % 2 != 0) {
    throw FormatError(name, "head dimension " + std::to_string(layer.head_dim) + " is odd; rotary positions need pairs");
  }
  if (layer.experts > 0 && (config.experts_per_token < 1 || config.experts_per_token > layer.experts)) {
    throw FormatError(name, std::to_string(config.experts_per_token) + " experts per token of " + std::to_string(layer.experts));
  }
}

void check_experts(const Config& config, const std::string& name) {
  std::int64_t experts = 0;
  for (const LayerConfig& layer : config.layers) {
    if (layer.experts > kMostExperts - experts) throw FormatError(name, "more than " + std::to_string(kMostExperts) + " experts in all layers together");
    experts += layer.experts;
  }
}

Json Config::to_json() const {
  Json json{{"architecture", architecture},
            {"vocabulary", vocabulary},
            {"hidden", hidden},
            {"max_positions", max_positions},
            {"norm", name_of(kNorms, norm)},
            {"norm_epsilon", norm_epsilon},
            {"norm_first", norm_first},
            {"final_norm", final_norm},
            {"activation", name_of(kActivations, activation)},
            {"gated_mlp", gated_mlp},
            {"query_bias", query_bias},
            {"output_bias", output_bias},
            {"mlp_bias", mlp_bias},
            {"head_bias", head_bias},
            {"query_key_norm", query_key_norm},
            {"positions", name_of(kPositions, positions)},
            {"position_offset", position_offset},
            {"rope_theta", rope_theta},
            {"rope_scaling", rope_scaling_to_json(rope_scaling)},
            {"log_scaled_from", log_scaled_from},
            {"experts_per_token", experts_per_token},
            {"normalise_experts", normalise_experts},
            {"embedding", embedding},
            {"tied_head", tied_head},
            {"sliced", sliced}};
  if (bos_id) json["bos_id"] = *bos_id;
  if (eos_id) json["eos_id"] = *eos_id;
  json["layers"] = Json::array();
  for (const LayerConfig& layer : layers) json["layers"].push_back(layer_to_json(layer));
  return json;
}

Config Config::from_json(const Json& json, const std::string& name) {
  const ConfigFields fields(json, name);
  Config config;
  config.architecture = fields.text("architecture");
  try {
    miq::architecture(config.architecture);
  } catch (const Error& error) {  // a name that no row has
    throw FormatError(name, error.what());
  }
  config.vocabulary = fields.size("vocabulary");
  config.hidden = fields.size("hidden");
  config.max_positions = fields.size("max_positions");
  config.norm = kind_of(kNorms, fields, "norm");
  config.norm_epsilon = fields.positive("norm_epsilon");
  config.norm_first = fields.flag_or("norm_first", true);
  config.final_norm = fields.flag_or("final_norm", true);
  config.activation = kind_of(kActivations, fields, "activation");
  config.gated_mlp = fields.flag_or("gated_mlp", true);
  config.query_bias = fields.flag_or("query_bias", false);
  config.output_bias = fields.flag_or("output_bias", false);
  config.mlp_bias = fields.flag_or("mlp_bias", false);
  config.head_bias = fields.flag_or("head_bias", false);
  config.query_key_norm = fields.flag_or("query_key_norm", false);
  if (fields.has("positions")) config.positions = kind_of(kPositions, fields, "positions");
  config.position_offset = fields.size_or("position_offset", 0, 0);
  config.rope_theta = fields.positive("rope_theta");
  config.rope_scaling = rope_scaling_from_json(ConfigFields(fields.at("rope_scaling"), name));
  config.log_scaled_from = fields.size_or("log_scaled_from", 0, 0);
  config.experts_per_token = fields.size_or("experts_per_token", 0, 0);
  config.normalise_experts = fields.flag_or("normalise_experts", true);
  config.embedding = fields.size_or("embedding", 0, 0);
  config.tied_head = fields.flag("tied_head");
  config.sliced = fields.flag_or("sliced", false);
  config.bos_id = fields.id("bos_id");
  config.eos_id = fields.id("eos_id");
  const Json& layers = fields.at("layers");
  if (!layers.is_array() || layers.empty() || layers.size() > static_cast<std::size_t>(kMostLayers)) fields.refuse("layers", "a list of layers");
  for (const Json& entry : layers) config.layers.push_back(layer_from_json(ConfigFields(entry, name), config));
  check_experts(config, name);
  return config;
}

}  // namespace miq
