// Facts: transformers models/qwen2_moe. Where windows are used, they are in every second of the first layers.
#include "miq/model/architecture_qwen2_moe.h"

#include "miq/model/common_rules.h"

namespace miq {
namespace {

constexpr std::string_view kModelTypes[] = {"qwen2_moe"};
constexpr auto kLayer = rules::join(rules::kAttention, rules::kMlp, rules::kExperts, rules::kSharedExpert);
constexpr std::string_view kConfigKeys[] = {
    "qkv_bias", "use_sliding_window", "sliding_window", "max_window_layers", "num_experts", "num_local_experts", "num_experts_per_tok",
    "decoder_sparse_step", "mlp_only_layers", "norm_topk_prob", "moe_intermediate_size", "shared_expert_intermediate_size",
    "router_aux_loss_coef", "output_router_logits"};

void read_config(const ConfigFields& fields, Config& config) {
  read_rotary_decoder(fields, config);
  read_expert_layers(fields, fields.size("shared_expert_intermediate_size"), config);
  const std::int64_t window = fields.flag_or("use_sliding_window", false) ? fields.size_or("sliding_window", 4096) : 0;
  const std::int64_t last = fields.size_or("max_window_layers", 28, 0);
  for (std::size_t i = 0; i < config.layers.size(); i += 2) {
    if (static_cast<std::int64_t>(i) < last) config.layers[i].window = window;
  }
  read_layer_types(fields, window, config);
  config.query_bias = fields.flag_or("qkv_bias", true);
}

}  // namespace

const Architecture kQwen2Moe{"qwen2_moe", kModelTypes, "model.layers.", rules::kGlobals, kLayer, rules::kIgnored, kConfigKeys, read_config};

}  // namespace miq
