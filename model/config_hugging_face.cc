// Hugging Face's config.json -> Config. What all architectures share is read here, the rest by the row's own
// reader. A key that no one understands but that sounds as if it changed the mathematics is refused rather
// than skipped: a model evaluated with the wrong rope or a missing bias gives plausible, wrong figures.
// A model type that nobody knows is read as Llama's, which most new decoders are; the tensors must then fit.
#include <algorithm>
#include <array>

#include "miq/model/architecture.h"
#include "miq/model/config.h"
#include "miq/model/config_fields.h"
#include "miq/model/foreign_types.h"

namespace miq {
namespace {

// Keys that every architecture may have: read below, or without effect on what the model computes.
constexpr std::string_view kCommonKeys[] = {
    "model_type", "architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "hidden_act", "rope_theta", "rope_scaling", "rope_parameters",
    "partial_rotary_factor", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "attention_dropout",
    "_attn_implementation", "attn_implementation", "_flash_attn_2_enabled"};

// A key outside the lists is refused when its name says that it concerns the computation and its value
// is not an explicit "off".
void refuse_unknown_mathematics(const Architecture& row, const ConfigFields& fields) {
  static constexpr std::array<std::string_view, 15> kSuspicious{"rope",   "rotary", "norm",    "bias",       "window",   "softcap", "multiplier", "scal",
                                                                "attn",   "attention", "expert", "residual", "quantiz", "sparse", "logit"};
  for (const auto& [key, value] : fields.json().items()) {
    if (std::ranges::find(kCommonKeys, key) != std::end(kCommonKeys) || std::ranges::find(row.config_keys, key) != row.config_keys.end()) continue;
    if (value.is_null() || value == false || value == 0) continue;
    if (std::ranges::any_of(kSuspicious, [&name = key](std::string_view word) { return name.find(word) != std::string::npos; })) {
      throw FormatError(fields.name(), "key '" + key + "' is set to " + value.dump() + " and may change what the model computes, but is not understood",
                        "If it has no effect on this model, remove it from a copy of the file");
    }
  }
}

std::string supported_types() {
  std::string known;
  for (const Architecture* row : architectures()) {
    for (std::string_view type : row->model_types) known += (known.empty() ? "" : ", ") + std::string(type);
  }
  return known;
}

// Null for a type that nobody knows; throws for one that is known not to fit any row.
const Architecture* row_for(const std::string& type, const std::string& name) {
  for (const Architecture* row : architectures()) {
    if (std::ranges::find(row->model_types, type) != row->model_types.end()) return row;
  }
  if (const ForeignType* foreign = find_foreign_type(type)) {
    throw FormatError(name, "model type '" + type + "' is not supported (" + std::string(foreign->difference) + "); supported: " + supported_types(),
                      foreign->nearest);
  }
  return nullptr;
}

Config read(const Architecture& row, const ConfigFields& fields) {
  refuse_unknown_mathematics(row, fields);
  Config config;
  config.architecture = row.name;
  config.vocabulary = fields.size("vocab_size");
  config.hidden = fields.size("hidden_size");
  config.max_positions = fields.size("max_position_embeddings");
  config.tied_head = fields.flag_or("tie_word_embeddings", false);
  config.bos_id = fields.id("bos_token_id");
  config.eos_id = fields.id("eos_token_id");
  row.read_config(fields, config);
  check_experts(config, fields.name());
  return config;
}

}  // namespace

Config config_from_hugging_face(const Json& json, const std::string& name, std::vector<std::string>* warnings) {
  const ConfigFields fields(json, name);
  const std::string type = fields.text("model_type");
  const Architecture* row = row_for(type, name);
  if (fields.has("quantization_config")) {
    throw FormatError(name, "the checkpoint is stored quantized by another tool (key 'quantization_config')", "Give the unquantized checkpoint");
  }
  if (row) return read(*row, fields);
  try {
    Config config = read(architecture("llama"), fields);
    if (warnings) {
      warnings->push_back(name + ": model type '" + type + "' is not known; it is read as llama because its config and tensors fit. Compare its perplexity with the original's before you rely on it");
    }
    return config;
  } catch (const Error& error) {
    throw FormatError(name, "model type '" + type + "' is not known, and its config does not read as llama's (" + error.what() + "); supported: " + supported_types());
  }
}

}  // namespace miq
