// See config_fields.h; nothing here knows an architecture.
#include "miq/model/config_fields.h"

#include <cmath>

namespace miq {
namespace {

constexpr std::int64_t kSizeLimit = std::int64_t{1} << 32;  // far above any real size; keeps products in range

RopeScaling read_rope_scaling(const ConfigFields& fields) {
  RopeScaling scaling;
  const char* key = fields.has("rope_type") ? "rope_type" : "type";
  const std::string type = fields.has(key) ? fields.text(key) : "default";
  if (type == "default") return scaling;
  if (type == "linear") {
    scaling.kind = RopeScaling::Kind::Linear;
  } else if (type == "llama3") {
    scaling.kind = RopeScaling::Kind::Llama3;
    scaling.low_frequency_factor = fields.positive("low_freq_factor");
    scaling.high_frequency_factor = fields.positive("high_freq_factor");
    scaling.original_max_positions = fields.size("original_max_position_embeddings");
    if (scaling.high_frequency_factor <= scaling.low_frequency_factor) fields.refuse("high_freq_factor", "more than low_freq_factor");
  } else {
    throw FormatError(fields.name(), "rope scaling '" + type + "' is not supported; supported: default, linear, llama3");
  }
  scaling.factor = fields.positive("factor");
  return scaling;
}

}  // namespace

ConfigFields::ConfigFields(const Json& json, const std::string& name) : json_(json), name_(name) {
  if (!json.is_object()) throw FormatError(name, "expected a JSON object");
}

bool ConfigFields::has(const char* key) const {
  const auto found = json_.find(key);
  return found != json_.end() && !found->is_null();
}

const Json& ConfigFields::at(const char* key) const {
  if (!has(key)) throw FormatError(name_, "key '" + std::string(key) + "' is missing");
  return json_.at(key);
}

std::int64_t ConfigFields::size(const char* key, std::int64_t least) const {
  const Json& value = at(key);
  if (!value.is_number_integer()) refuse(key, "an integer");
  // Unsigned values above the signed range must not wrap to negative ones.
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(kSizeLimit)) refuse(key, "at most 2^32");
  const auto number = value.get<std::int64_t>();
  if (number < least || number > kSizeLimit) refuse(key, "between " + std::to_string(least) + " and 2^32");
  return number;
}

std::int64_t ConfigFields::size_or(const char* key, std::int64_t otherwise, std::int64_t least) const { return has(key) ? size(key, least) : otherwise; }

double ConfigFields::positive(const char* key) const {
  const Json& value = at(key);
  const double number = value.is_number() ? value.get<double>() : 0;
  if (!std::isfinite(number) || number <= 0) refuse(key, "a positive number");
  return number;
}

std::string ConfigFields::text(const char* key) const {
  if (!at(key).is_string()) refuse(key, "a string");
  return at(key).get<std::string>();
}

bool ConfigFields::flag(const char* key) const {
  if (!at(key).is_boolean()) refuse(key, "true or false");
  return at(key).get<bool>();
}

bool ConfigFields::flag_or(const char* key, bool otherwise) const { return has(key) ? flag(key) : otherwise; }

std::optional<std::int64_t> ConfigFields::id(const char* key) const {
  if (!has(key)) return std::nullopt;
  // Some Llama-3 configs list several end ids; the first one is the text's end.
  const Json& value = json_.at(key);
  if (value.is_array() && !value.empty() && value[0].is_number_integer()) return value[0].get<std::int64_t>();
  if (!value.is_number_integer()) refuse(key, "an integer");
  return value.get<std::int64_t>() < 0 ? std::nullopt : std::optional(value.get<std::int64_t>());
}

void ConfigFields::refuse(const char* key, const std::string& expected) const {
  throw FormatError(name_, "key '" + std::string(key) + "' is " + json_.at(key).dump() + ", expected " + expected);
}

void read_rotary_decoder(const ConfigFields& fields, Config& config) {
  config.norm_epsilon = fields.positive("rms_norm_eps");
  if (const std::string activation = fields.has("hidden_act") ? fields.text("hidden_act") : "silu"; activation != "silu" && activation != "swish") {
    throw FormatError(fields.name(), "activation '" + activation + "' is not supported for model type '" + fields.text("model_type") + "'; supported: silu");
  }
  // transformers 5 writes rope_parameters where earlier versions wrote rope_theta and rope_scaling.
  const char* rope = fields.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (fields.has(rope)) config.rope_scaling = read_rope_scaling(ConfigFields(fields.at(rope), fields.name()));
  if (fields.has("rope_parameters") && fields.at("rope_parameters").contains("rope_theta")) {
    config.rope_theta = ConfigFields(fields.at("rope_parameters"), fields.name()).positive("rope_theta");
  } else if (fields.has("rope_theta")) {
    config.rope_theta = fields.positive("rope_theta");
  }
  LayerConfig layer;
  layer.heads = fields.size("num_attention_heads");
  layer.kv_heads = fields.size_or("num_key_value_heads", layer.heads);
  if (!fields.has("head_dim") && config.hidden % layer.heads != 0) {
    throw FormatError(fields.name(), "hidden_size " + std::to_string(config.hidden) + " is no multiple of num_attention_heads " + std::to_string(layer.heads));
  }
  layer.head_dim = fields.size_or("head_dim", config.hidden / layer.heads);
  layer.mlp_width = fields.size("intermediate_size");
  set_layers(fields, "num_hidden_layers", layer, config);
}

void set_layers(const ConfigFields& fields, const char* count_key, const LayerConfig& layer, Config& config) {
  check_layer(config, layer, fields.name());
  const std::int64_t count = fields.size(count_key);
  if (count > kMostLayers) fields.refuse(count_key, "at most " + std::to_string(kMostLayers));
  config.layers.assign(static_cast<std::size_t>(count), layer);
}

}  // namespace miq
