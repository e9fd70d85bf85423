// A checkpoint's configuration, normalised: the same fields whatever file it came from.
// Sizes are per layer, never global: structured pruning changes them layer by layer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "miq/formats/json.h"

namespace miq {

enum class NormKind { Rms, Layer };
enum class Activation { Silu, Relu, Gelu, GeluTanh };

struct RopeScaling {
  enum class Kind { None, Linear, Llama3 } kind = Kind::None;
  double factor = 1;
  // Llama3 only (transformers modeling_rope_utils.py):
  double low_frequency_factor = 1, high_frequency_factor = 4;
  std::int64_t original_max_positions = 0;
};

struct LayerConfig {
  std::int64_t heads = 0;     // query heads
  std::int64_t kv_heads = 0;  // key/value heads; heads is a multiple of it
  std::int64_t head_dim = 0;
  std::int64_t mlp_width = 0;
  bool operator==(const LayerConfig&) const = default;
};

struct Config {
  std::string architecture;  // a row of architecture.h: "llama"
  std::int64_t vocabulary = 0;
  std::int64_t hidden = 0;
  std::int64_t max_positions = 0;
  std::vector<LayerConfig> layers;
  NormKind norm = NormKind::Rms;
  double norm_epsilon = 1e-5;
  Activation activation = Activation::Silu;
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  bool tied_head = false;
  std::optional<std::int64_t> bos_id, eos_id;

  Json to_json() const;  // for the container's manifest
  // Throws FormatError naming `name` on missing or odd fields.
  static Config from_json(const Json& json, const std::string& name);
};

// From a Hugging Face config.json. Throws FormatError: an unknown architecture is named together with
// those supported; a key that changes the mathematics and is not understood is refused by name.
Config config_from_hugging_face(const Json& json, const std::string& name);

}  // namespace miq
