// Config <-> JSON: our own normalised form (every field, always written) and Hugging Face's config.json,
// where a key that is not understood but sounds as if it changed the mathematics is refused rather
// than skipped: a model evaluated with the wrong rope or a missing bias gives plausible, wrong figures.
#include "miq/model/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "miq/base/error.h"
#include "miq/model/architecture.h"

namespace miq {
namespace {

constexpr std::int64_t kSizeLimit = std::int64_t{1} << 32;  // far above any real size; keeps products in range
constexpr std::int64_t kLayerLimit = 100'000;

// Reads typed fields of one JSON object and names the file and the key in every complaint.
class Fields {
 public:
  Fields(const Json& json, const std::string& name) : json_(json), name_(name) {
    if (!json.is_object()) throw FormatError(name, "expected a JSON object");
  }
  bool has(const char* key) const {
    const auto found = json_.find(key);
    return found != json_.end() && !found->is_null();
  }
  const Json& at(const char* key) const {
    if (!has(key)) throw FormatError(name_, "key '" + std::string(key) + "' is missing");
    return json_.at(key);
  }
  std::int64_t size(const char* key, std::int64_t least = 1) const {
    const Json& value = at(key);
    if (!value.is_number_integer()) refuse(key, "an integer");
    // Unsigned values above the signed range must not wrap to negative ones.
    if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(kSizeLimit)) refuse(key, "at most 2^32");
    const auto number = value.get<std::int64_t>();
    if (number < least || number > kSizeLimit) refuse(key, "between " + std::to_string(least) + " and 2^32");
    return number;
  }
  double positive(const char* key) const {
    const Json& value = at(key);
    const double number = value.is_number() ? value.get<double>() : 0;
    if (!std::isfinite(number) || number <= 0) refuse(key, "a positive number");
    return number;
  }
  std::string text(const char* key) const {
    if (!at(key).is_string()) refuse(key, "a string");
    return at(key).get<std::string>();
  }
  bool flag(const char* key) const {
    if (!at(key).is_boolean()) refuse(key, "true or false");
    return at(key).get<bool>();
  }
  std::optional<std::int64_t> id(const char* key) const {
    if (!has(key)) return std::nullopt;
    // Some Llama-3 configs list several end ids; the first one is the text's end.
    const Json& value = json_.at(key);
    if (value.is_array() && !value.empty() && value[0].is_number_integer()) return value[0].get<std::int64_t>();
    if (!value.is_number_integer()) refuse(key, "an integer");
    return value.get<std::int64_t>() < 0 ? std::nullopt : std::optional(value.get<std::int64_t>());
  }
  [[noreturn]] void refuse(const char* key, const std::string& expected) const {
    throw FormatError(name_, "key '" + std::string(key) + "' is " + json_.at(key).dump() + ", expected " + expected);
  }
  const std::string& name() const { return name_; }

 private:
  const Json& json_;
  const std::string& name_;
};

template <typename Kind>
struct Name {
  Kind kind;
  const char* name;
};
constexpr Name<NormKind> kNorms[] = {{NormKind::Rms, "rms"}, {NormKind::Layer, "layer"}};
constexpr Name<Activation> kActivations[] = {
    {Activation::Silu, "silu"}, {Activation::Relu, "relu"}, {Activation::Gelu, "gelu"}, {Activation::GeluTanh, "gelu_tanh"}};
constexpr Name<RopeScaling::Kind> kScalings[] = {
    {RopeScaling::Kind::None, "none"}, {RopeScaling::Kind::Linear, "linear"}, {RopeScaling::Kind::Llama3, "llama3"}};

template <typename Kind, std::size_t N>
const char* name_of(const Name<Kind> (&names)[N], Kind kind) {
  for (const auto& entry : names) {
    if (entry.kind == kind) return entry.name;
  }
  return "";
}

template <typename Kind, std::size_t N>
Kind kind_of(const Name<Kind> (&names)[N], const Fields& fields, const char* key) {
  const std::string text = fields.text(key);
  std::string known;
  for (const auto& entry : names) {
    if (text == entry.name) return entry.kind;
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  fields.refuse(key, "one of " + known);
}

RopeScaling rope_scaling_from_json(const Fields& fields) {
  RopeScaling scaling;
  scaling.kind = kind_of(kScalings, fields, "kind");
  if (scaling.kind == RopeScaling::Kind::None) return scaling;
  scaling.factor = fields.positive("factor");
  if (scaling.kind == RopeScaling::Kind::Llama3) {
    scaling.low_frequency_factor = fields.positive("low_frequency_factor");
    scaling.high_frequency_factor = fields.positive("high_frequency_factor");
    scaling.original_max_positions = fields.size("original_max_positions");
  }
  return scaling;
}

RopeScaling rope_scaling_from_hugging_face(const Json& json, const std::string& name) {
  const Fields fields(json, name);
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
    throw FormatError(name, "rope scaling '" + type + "' is not supported; supported: default, linear, llama3");
  }
  scaling.factor = fields.positive("factor");
  return scaling;
}

void check_layer(const LayerConfig& layer, const std::string& name) {
  if (layer.heads % layer.kv_heads != 0) {
    throw FormatError(name, std::to_string(layer.heads) + " heads are no multiple of " + std::to_string(layer.kv_heads) + " key/value heads");
  }
  if (layer.head_dim % 2 != 0) throw FormatError(name, "head dimension " + std::to_string(layer.head_dim) + " is odd; rotary positions need pairs");
}

// Keys of a Llama config.json that this reader uses, or that do not change what the model computes.
const std::set<std::string_view>& llama_keys() {
  static const std::set<std::string_view> keys{
      "model_type", "architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
      "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "hidden_act", "rope_theta", "rope_scaling", "rope_parameters",
      "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "attention_bias", "mlp_bias", "attention_dropout",
      // slices the same products over devices
      "pretraining_tp", "_attn_implementation", "attn_implementation", "_flash_attn_2_enabled",
      // SmolLM's notes to its converters: the layout it already has
      "is_llama_config", "rope_interleaved", "transformers.js_config"};
  return keys;
}

// A key outside the list is refused when its name says that it concerns the computation and its value
// is not an explicit "off".
void refuse_unknown_mathematics(const Json& json, const std::string& name) {
  static constexpr std::array<std::string_view, 15> kSuspicious{"rope",   "rotary", "norm",    "bias",       "window",   "softcap", "multiplier", "scal",
                                                                "attn",   "attention", "expert", "residual", "quantiz", "sparse", "logit"};
  for (const auto& [key, value] : json.items()) {
    if (llama_keys().contains(key)) continue;
    if (value.is_null() || value == false || value == 0) continue;
    if (std::ranges::any_of(kSuspicious, [&](std::string_view word) { return key.find(word) != std::string::npos; })) {
      throw FormatError(name, "key '" + key + "' is set to " + value.dump() + " and may change what the model computes, but is not understood",
                        "If it has no effect on this model, remove it from a copy of the file");
    }
  }
  if (json.value("rope_interleaved", false)) throw FormatError(name, "key 'rope_interleaved' is true: interleaved rotary positions are not supported");
}

}  // namespace

Json Config::to_json() const {
  Json json{{"architecture", architecture},
            {"vocabulary", vocabulary},
            {"hidden", hidden},
            {"max_positions", max_positions},
            {"norm", name_of(kNorms, norm)},
            {"norm_epsilon", norm_epsilon},
            {"activation", name_of(kActivations, activation)},
            {"rope_theta", rope_theta},
            {"tied_head", tied_head}};
  Json scaling{{"kind", name_of(kScalings, rope_scaling.kind)}};
  if (rope_scaling.kind != RopeScaling::Kind::None) scaling["factor"] = rope_scaling.factor;
  if (rope_scaling.kind == RopeScaling::Kind::Llama3) {
    scaling["low_frequency_factor"] = rope_scaling.low_frequency_factor;
    scaling["high_frequency_factor"] = rope_scaling.high_frequency_factor;
    scaling["original_max_positions"] = rope_scaling.original_max_positions;
  }
  json["rope_scaling"] = std::move(scaling);
  if (bos_id) json["bos_id"] = *bos_id;
  if (eos_id) json["eos_id"] = *eos_id;
  json["layers"] = Json::array();
  for (const LayerConfig& layer : layers) {
    json["layers"].push_back({{"heads", layer.heads}, {"kv_heads", layer.kv_heads}, {"head_dim", layer.head_dim}, {"mlp_width", layer.mlp_width}});
  }
  return json;
}

Config Config::from_json(const Json& json, const std::string& name) {
  const Fields fields(json, name);
  Config config;
  config.architecture = fields.text("architecture");
  miq::architecture(config.architecture);  // throws for a name that no row has
  config.vocabulary = fields.size("vocabulary");
  config.hidden = fields.size("hidden");
  config.max_positions = fields.size("max_positions");
  config.norm = kind_of(kNorms, fields, "norm");
  config.norm_epsilon = fields.positive("norm_epsilon");
  config.activation = kind_of(kActivations, fields, "activation");
  config.rope_theta = fields.positive("rope_theta");
  config.tied_head = fields.flag("tied_head");
  config.rope_scaling = rope_scaling_from_json(Fields(fields.at("rope_scaling"), name));
  config.bos_id = fields.id("bos_id");
  config.eos_id = fields.id("eos_id");
  const Json& layers = fields.at("layers");
  if (!layers.is_array() || layers.empty() || layers.size() > static_cast<std::size_t>(kLayerLimit)) fields.refuse("layers", "a list of layers");
  for (const Json& entry : layers) {
    const Fields layer(entry, name);
    config.layers.push_back({layer.size("heads"), layer.size("kv_heads"), layer.size("head_dim"), layer.size("mlp_width")});
    check_layer(config.layers.back(), name);
  }
  return config;
}

Config config_from_hugging_face(const Json& json, const std::string& name) {
  const Fields fields(json, name);
  const std::string type = fields.text("model_type");
  const Architecture* row = nullptr;
  std::string known;
  for (const Architecture* candidate : architectures()) {
    for (std::string_view supported : candidate->model_types) {
      if (supported == type) row = candidate;
      known += (known.empty() ? "" : ", ") + std::string(supported);
    }
  }
  if (!row) throw FormatError(name, "model type '" + type + "' is not supported; supported: " + known);
  if (json.contains("quantization_config") && !json["quantization_config"].is_null()) {
    throw FormatError(name, "the checkpoint is stored quantized by another tool (key 'quantization_config')", "Give the unquantized checkpoint");
  }
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    if (fields.has(key) && fields.flag(key)) throw FormatError(name, "key '" + std::string(key) + "' is true: biases are not supported for model type '" + type + "'");
  }
  refuse_unknown_mathematics(json, name);

  Config config;
  config.architecture = row->name;
  config.vocabulary = fields.size("vocab_size");
  config.hidden = fields.size("hidden_size");
  config.max_positions = fields.size("max_position_embeddings");
  config.norm_epsilon = fields.positive("rms_norm_eps");
  if (const std::string activation = fields.has("hidden_act") ? fields.text("hidden_act") : "silu"; activation != "silu" && activation != "swish") {
    throw FormatError(name, "activation '" + activation + "' is not supported for model type '" + type + "'; supported: silu");
  }
  // transformers 5 writes rope_parameters where earlier versions wrote rope_theta and rope_scaling.
  const char* rope = fields.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (fields.has(rope)) config.rope_scaling = rope_scaling_from_hugging_face(fields.at(rope), name);
  if (fields.has("rope_parameters") && fields.at("rope_parameters").contains("rope_theta")) {
    config.rope_theta = Fields(fields.at("rope_parameters"), name).positive("rope_theta");
  } else if (fields.has("rope_theta")) {
    config.rope_theta = fields.positive("rope_theta");
  }
  config.tied_head = fields.has("tie_word_embeddings") && fields.flag("tie_word_embeddings");
  config.bos_id = fields.id("bos_token_id");
  config.eos_id = fields.id("eos_token_id");

  LayerConfig layer;
  layer.heads = fields.size("num_attention_heads");
  layer.kv_heads = fields.has("num_key_value_heads") ? fields.size("num_key_value_heads") : layer.heads;
  if (!fields.has("head_dim") && config.hidden % layer.heads != 0) {
    throw FormatError(name, "hidden_size " + std::to_string(config.hidden) + " is no multiple of num_attention_heads " + std::to_string(layer.heads));
  }
  layer.head_dim = fields.has("head_dim") ? fields.size("head_dim") : config.hidden / layer.heads;
  layer.mlp_width = fields.size("intermediate_size");
  check_layer(layer, name);
  const std::int64_t count = fields.size("num_hidden_layers");
  if (count > kLayerLimit) fields.refuse("num_hidden_layers", "at most " + std::to_string(kLayerLimit));
  config.layers.assign(static_cast<std::size_t>(count), layer);
  return config;
}

}  // namespace miq
