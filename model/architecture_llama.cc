// The order of the layer's rows is the order of the forward pass. In a model sliced by SliceGPT the norms are
// fused into the matrices that they feed, and two rotations carry the residual stream from one width to the
// next (Ashkboos et al. 2024, arXiv:2401.15024).
#include "miq/model/architecture_llama.h"

#include "miq/model/common_rules.h"

namespace miq {
namespace {

// The first Yi checkpoints named themselves, with Llama's tensors and keys.
constexpr std::string_view kModelTypes[] = {"llama", "yi", "Yi"};

constexpr auto kLayer = rules::join(rules::kAttention, rules::kMlp);

constexpr std::string_view kConfigKeys[] = {
    "attention_bias", "mlp_bias",
    // slices the same products over devices
    "pretraining_tp",
    // SmolLM's notes to its converters: the layout it already has
    "is_llama_config", "rope_interleaved", "transformers.js_config"};

void read_config(const ConfigFields& fields, Config& config) {
  read_rotary_decoder(fields, config);
  if (fields.flag_or("rope_interleaved", false)) {
    throw FormatError(fields.name(), "key 'rope_interleaved' is true: interleaved rotary positions are not supported");
  }
  read_layer_types(fields, 0, config);
  config.query_bias = config.output_bias = fields.flag_or("attention_bias", false);
  config.mlp_bias = fields.flag_or("mlp_bias", false);
}

}  // namespace

const Architecture kLlama{"llama", kModelTypes, "model.layers.", rules::kGlobals, kLayer, rules::kIgnored, kConfigKeys, read_config};

}  // namespace miq
