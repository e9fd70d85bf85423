// A checkpoint's configuration, normalised: the same fields whatever file it came from.
// Sizes are per layer, never global: structured pruning changes them layer by layer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "miq/formats/json.h"

namespace miq {

// Rms: x * weight / sqrt(mean(x^2) + epsilon). Layer: (x - mean) * weight / sqrt(variance + epsilon) + bias.
// FusedRms: without weights, and the mean is the sum over Config::hidden whatever the width of x, as
// SliceGPT leaves it (slicegpt/layernorm_fusion.py, RMSN).
enum class NormKind { Rms, Layer, FusedRms };
enum class Activation { Silu, Relu, Gelu, GeluTanh };
enum class Positions { Rotary, Learned };

// How rotary positions go beyond what the model was first trained with (transformers modeling_rope_utils.py;
// QwenDynamic: modeling_qwen.py, whose base grows in steps). Dynamic kinds depend on the length of the text.
struct RopeScaling {
  enum class Kind { None, Linear, Llama3, Dynamic, Yarn, QwenDynamic } kind = Kind::None;
  double factor = 1;                                            // all but QwenDynamic
  double low_frequency_factor = 1, high_frequency_factor = 4;   // Llama3
  std::int64_t original_max_positions = 0;                      // all but Linear
  double attention_factor = 1, beta_fast = 32, beta_slow = 1;   // Yarn; cosines and sines are multiplied by the first
  bool truncate = true;                                         // Yarn: its range of dimensions is made of whole ones
};

struct LayerConfig {
  std::int64_t heads = 0;     // query heads
  std::int64_t kv_heads = 0;  // key/value heads; heads is a multiple of it
  std::int64_t head_dim = 0;
  std::int64_t mlp_width = 0;  // of each expert where there are experts
  // A layer that structured pruning deleted: it has no tensors and hands its input on. All else is 0.
  bool identity = false;
  std::int64_t window = 0;        // how far back attention sees, the token itself counted; 0: to the start
  std::int64_t experts = 0;       // 0: one plain MLP
  std::int64_t shared_width = 0;  // MLP width of the expert that sees every token; 0: none
  // Widths of the residual stream before, within and after the layer; 0: Config::hidden. See input_width().
  std::int64_t input = 0, middle = 0, output = 0;
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
  bool norm_first = true;   // false: norms follow the residual sum (OPT-350m)
  bool final_norm = true;
  Activation activation = Activation::Silu;
  bool gated_mlp = true;    // down(activation(gate x) * up x); else down(activation(up x))
  bool query_bias = false, output_bias = false, mlp_bias = false, head_bias = false;  // query: of q, k and v
  bool query_key_norm = false;  // RMS norms over each head of q and k, before the rotation
  Positions positions = Positions::Rotary;
  std::int64_t position_offset = 0;  // Learned: row of position 0; the table has max_positions + offset rows
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  std::int64_t log_scaled_from = 0;  // queries of later positions p are multiplied by log(p + 1) / log(this); 0: none
  std::int64_t experts_per_token = 0;
  bool normalise_experts = true;  // the chosen experts' weights sum to one
  std::int64_t embedding = 0;     // width of the embedding where a projection joins it to the residual stream; 0: none
  bool tied_head = false;
  bool sliced = false;            // by SliceGPT: norms are FusedRms and every layer has two rotations
  std::optional<std::int64_t> bos_id, eos_id;

  Json to_json() const;  // for the container's manifest
  // Throws FormatError naming `name` on missing or odd fields.
  static Config from_json(const Json& json, const std::string& name);
};

// Widths of the residual stream: all Config::hidden but in sliced models.
std::int64_t input_width(const Config& config, const LayerConfig& layer);
std::int64_t middle_width(const Config& config, const LayerConfig& layer);
std::int64_t output_width(const Config& config, const LayerConfig& layer);
// Columns of the embedding and of the head.
std::int64_t embedding_width(const Config& config);
std::int64_t head_width(const Config& config);

// The width that SliceGPT gives a stream of `hidden`: int((1 - sparsity) * hidden), less its remainder.
std::int64_t sliced_width(std::int64_t hidden, double sparsity, std::int64_t round_interval);

inline constexpr std::int64_t kMostLayers = 100'000;
// Of all layers together: far above any real model, and few enough for a list of their tensors.
inline constexpr std::int64_t kMostExperts = 200'000;
// Throws FormatError naming `name` where the layers have more experts.
void check_experts(const Config& config, const std::string& name);
// Heads against key/value heads, pairs for the rotation, experts. Throws FormatError naming `name`.
void check_layer(const Config& config, const LayerConfig& layer, const std::string& name);

// From a Hugging Face config.json. Throws FormatError: an unknown architecture is named together with
// those supported; a key that changes the mathematics and is not understood is refused by name. A model type
// that nobody knows is read as llama's where its keys allow it, with a warning: the tensors must then fit.
Config config_from_hugging_face(const Json& json, const std::string& name, std::vector<std::string>* warnings = nullptr);

}  // namespace miq
