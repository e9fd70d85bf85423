// The parts of config.json that several architectures write alike. Rope scaling: transformers
// modeling_rope_utils.py, and the older form of the same keys; yarn's attention factor is worked out here,
// once. A key of the rope's settings that is not known is refused: every one of them moves every angle.
#include <algorithm>
#include <cmath>

#include "miq/model/config_fields.h"

namespace miq {
namespace {

constexpr std::string_view kRopeKeys[] = {"rope_type", "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor",
                                          "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
                                          "mscale_all_dim", "truncate", "partial_rotary_factor",
                                          "finetuned"};  // without effect: says who wrote it

double yarn_magnitude(double factor, double weight) { return factor <= 1 ? 1 : 0.1 * weight * std::log(factor) + 1; }

double yarn_attention_factor(const ConfigFields& fields, double factor) {
  if (fields.has("attention_factor")) return fields.positive("attention_factor");
  if (fields.has("mscale") && fields.has("mscale_all_dim") && fields.at("mscale") != 0 && fields.at("mscale_all_dim") != 0) {
    return yarn_magnitude(factor, fields.positive("mscale")) / yarn_magnitude(factor, fields.positive("mscale_all_dim"));
  }
  return yarn_magnitude(factor, 1);
}

RopeScaling read_rope_scaling(const ConfigFields& fields, const Config& config) {
  for (const auto& [key, value] : fields.json().items()) {
    if (!value.is_null() && std::ranges::find(kRopeKeys, key) == std::end(kRopeKeys)) {
      throw FormatError(fields.name(), "key '" + key + "' of the rotary positions' settings is not understood");
    }
  }
  if (fields.has("partial_rotary_factor") && fields.positive("partial_rotary_factor") != 1) {
    fields.refuse("partial_rotary_factor", "1: heads rotated in part are not supported");
  }
  RopeScaling scaling;
  const char* key = fields.has("rope_type") ? "rope_type" : "type";
  const std::string type = fields.has(key) ? fields.text(key) : "default";
  if (type == "default") return scaling;
  if (type == "linear") {
    scaling.kind = RopeScaling::Kind::Linear;
    scaling.factor = fields.positive("factor");
    return scaling;
  }
  // Dynamic scaling knows no other original length than the config's.
  scaling.original_max_positions = type == "dynamic" ? config.max_positions : fields.size_or("original_max_position_embeddings", config.max_positions);
  if (type == "dynamic") {
    scaling.kind = RopeScaling::Kind::Dynamic;
    scaling.factor = fields.positive("factor");
  } else if (type == "llama3") {
    scaling.kind = RopeScaling::Kind::Llama3;
    scaling.factor = fields.positive("factor");
    scaling.low_frequency_factor = fields.positive("low_freq_factor");
    scaling.high_frequency_factor = fields.positive("high_freq_factor");
    if (scaling.high_frequency_factor <= scaling.low_frequency_factor) fields.refuse("high_freq_factor", "more than low_freq_factor");
  } else if (type == "yarn") {
    scaling.kind = RopeScaling::Kind::Yarn;
    scaling.factor = fields.has("factor") ? fields.positive("factor")
                                          : static_cast<double>(config.max_positions) / static_cast<double>(scaling.original_max_positions);
    scaling.attention_factor = yarn_attention_factor(fields, scaling.factor);
    if (fields.has("beta_fast")) scaling.beta_fast = fields.positive("beta_fast");
    if (fields.has("beta_slow")) scaling.beta_slow = fields.positive("beta_slow");
    scaling.truncate = fields.flag_or("truncate", true);
  } else {
    throw FormatError(fields.name(), "rope scaling '" + type + "' is not supported; supported: default, linear, dynamic, llama3, yarn");
  }
  return scaling;
}

}  // namespace

void read_rotary_decoder(const ConfigFields& fields, Config& config) {
  config.norm_epsilon = fields.positive("rms_norm_eps");
  if (const std::string activation = fields.has("hidden_act") ? fields.text("hidden_act") : "silu"; activation != "silu" && activation != "swish") {
    throw FormatError(fields.name(), "activation '" + activation + "' is not supported for model type '" + fields.text("model_type") + "'; supported: silu");
  }
  if (fields.has("partial_rotary_factor") && fields.positive("partial_rotary_factor") != 1) {
    fields.refuse("partial_rotary_factor", "1: heads rotated in part are not supported");
  }
  if (fields.has("rope_theta")) config.rope_theta = fields.positive("rope_theta");
  // transformers 5 writes rope_parameters where earlier versions wrote rope_theta and rope_scaling.
  const char* rope = fields.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (fields.has(rope)) {
    const ConfigFields settings(fields.at(rope), fields.name());
    config.rope_scaling = read_rope_scaling(settings, config);
    if (settings.has("rope_theta")) config.rope_theta = settings.positive("rope_theta");
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

void read_layer_types(const ConfigFields& fields, std::int64_t window, Config& config) {
  if (!fields.has("layer_types")) return;
  const Json& types = fields.at("layer_types");
  if (!types.is_array() || types.size() != config.layers.size()) fields.refuse("layer_types", "one entry for each of num_hidden_layers layers");
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    const bool sliding = types[i] == "sliding_attention";
    if (!sliding && types[i] != "full_attention") fields.refuse("layer_types", "full_attention or sliding_attention");
    if (sliding && window == 0) fields.refuse("layer_types", "full_attention: no sliding_window is set");
    config.layers[i].window = sliding ? window : 0;
  }
}

void read_late_windows(const ConfigFields& fields, Config& config) {
  const std::int64_t window = fields.flag_or("use_sliding_window", false) ? fields.size_or("sliding_window", 4096) : 0;
  const std::int64_t first = fields.size_or("max_window_layers", 28, 0);
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    if (static_cast<std::int64_t>(i) >= first) config.layers[i].window = window;
  }
  read_layer_types(fields, window, config);
}

void read_expert_layers(const ConfigFields& fields, std::int64_t shared_width, Config& config) {
  const std::int64_t experts = fields.size(fields.has("num_experts") ? "num_experts" : "num_local_experts", 0);
  const std::int64_t width = fields.size("moe_intermediate_size"), step = fields.size_or("decoder_sparse_step", 1);
  config.experts_per_token = fields.size("num_experts_per_tok");
  config.normalise_experts = fields.flag_or("norm_topk_prob", false);
  std::vector<std::int64_t> plain;
  if (fields.has("mlp_only_layers")) {
    const Json& list = fields.at("mlp_only_layers");
    if (!list.is_array() || std::ranges::any_of(list, [](const Json& entry) { return !entry.is_number_integer(); })) {
      fields.refuse("mlp_only_layers", "a list of layers");
    }
    plain = list.get<std::vector<std::int64_t>>();
  }
  if (experts == 0) return;
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    const auto number = static_cast<std::int64_t>(i);
    if ((number + 1) % step != 0 || std::ranges::find(plain, number) != plain.end()) continue;
    LayerConfig& layer = config.layers[i];
    layer.mlp_width = width;
    layer.experts = experts;
    layer.shared_width = shared_width;
    check_layer(config, layer, fields.name());
  }
}

}  // namespace miq
