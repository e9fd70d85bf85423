// Typed access to a JSON object of settings, for the architectures' readers of config.json: every complaint
// names the file and the key.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "miq/base/error.h"
#include "miq/formats/json.h"
#include "miq/model/config.h"

namespace miq {

// Keeps references to `json` and `name`. Every reader throws FormatError naming the file, the key and what
// was expected. A key whose value is null counts as absent.
class ConfigFields {
 public:
  ConfigFields(const Json& json, const std::string& name);
  bool has(const char* key) const;
  const Json& at(const char* key) const;
  std::int64_t size(const char* key, std::int64_t least = 1) const;  // an integer in [least, 2^32]
  std::int64_t size_or(const char* key, std::int64_t otherwise, std::int64_t least = 1) const;
  double positive(const char* key) const;
  std::string text(const char* key) const;
  bool flag(const char* key) const;
  bool flag_or(const char* key, bool otherwise) const;
  std::optional<std::int64_t> id(const char* key) const;  // the first of several
  [[noreturn]] void refuse(const char* key, const std::string& expected) const;
  const Json& json() const { return json_; }
  const std::string& name() const { return name_; }

 private:
  const Json& json_;
  const std::string& name_;
};

// config_decoder.cc has what follows.

// The fields that Llama and its kin share: rms_norm_eps, hidden_act (SiLU only), rope_theta, rope_scaling
// or rope_parameters, and equal layers of num_attention_heads, num_key_value_heads, head_dim and intermediate_size.
void read_rotary_decoder(const ConfigFields& fields, Config& config);
// num_hidden_layers copies of `layer`, checked: heads a multiple of kv_heads, an even head_dim where positions rotate.
void set_layers(const ConfigFields& fields, const char* count_key, const LayerConfig& layer, Config& config);

// layer_types, where the file has it: each layer's attention, full or within `window` (0: the model has none).
void read_layer_types(const ConfigFields& fields, std::int64_t window, Config& config);
// Qwen's windows: in the layers from max_window_layers on if use_sliding_window says so, or by layer_types.
void read_late_windows(const ConfigFields& fields, Config& config);
// Qwen's mixtures: num_experts, num_experts_per_tok, norm_topk_prob, moe_intermediate_size, and which layers
// have them: every decoder_sparse_step-th, without mlp_only_layers. `shared_width`: as in LayerConfig.
void read_expert_layers(const ConfigFields& fields, std::int64_t shared_width, Config& config);

}  // namespace miq
