// Facts: transformers models/qwen3_moe. Where a window is used, it is in every layer.
#include "miq/model/architecture_qwen3_moe.h"

#include "miq/model/common_rules.h"

namespace miq {
namespace {

constexpr std::string_view kModelTypes[] = {"qwen3_moe"};
constexpr auto kLayer = rules::join(rules::kAttention, rules::kMlp, rules::kExperts);
constexpr std::string_view kConfigKeys[] = {
    "attention_bias", "use_sliding_window", "sliding_window", "max_window_layers", "num_experts", "num_local_experts", "num_experts_per_tok",
    "decoder_sparse_step", "mlp_only_layers", "norm_topk_prob", "moe_intermediate_size", "router_aux_loss_coef", "output_router_logits"};

void read_config(const ConfigFields& fields, Config& config) {
  read_rotary_decoder(fields, config);
  read_expert_layers(fields, 0, config);
  const std::int64_t window = fields.flag_or("use_sliding_window", false) ? fields.size_or("sliding_window", 4096) : 0;
  for (LayerConfig& layer : config.layers) layer.window = window;
  read_layer_types(fields, window, config);
  config.query_bias = config.output_bias = fields.flag_or("attention_bias", false);
  config.query_key_norm = true;
}

}  // namespace

const Architecture kQwen3Moe{"qwen3_moe", kModelTypes, "model.layers.", rules::kGlobals, kLayer, rules::kIgnored, kConfigKeys, read_config};

}  // namespace miq
