// Facts: transformers models/mixtral. w1 is the gate, w3 the way up, w2 the way down.
#include "miq/model/architecture_mixtral.h"

#include "miq/model/common_rules.h"

namespace miq {
namespace {

constexpr std::string_view kModelTypes[] = {"mixtral"};

constexpr std::array<LayerTensorRule, 4> kMixture{{
    {"block_sparse_moe.gate.weight", Role::Router, false, Part::Router, false, InputSite::Mlp, rules::router_shape},
    {"block_sparse_moe.experts.{}.w1.weight", Role::ExpertGate, false, Part::Mlp, true, InputSite::Mlp, rules::mlp_shape},
    {"block_sparse_moe.experts.{}.w3.weight", Role::ExpertUp, false, Part::Mlp, true, InputSite::Mlp, rules::mlp_shape},
    {"block_sparse_moe.experts.{}.w2.weight", Role::ExpertDown, false, Part::Mlp, true, InputSite::MlpOutput, rules::mlp_output_shape},
}};
constexpr auto kLayer = rules::join(rules::kAttention, kMixture);

constexpr std::string_view kConfigKeys[] = {"sliding_window", "num_local_experts", "num_experts_per_tok", "router_aux_loss_coef",
                                            "router_jitter_noise", "output_router_logits"};

void read_config(const ConfigFields& fields, Config& config) {
  config.rope_theta = 1e6;  // where the config leaves it out
  config.experts_per_token = fields.size("num_experts_per_tok");
  config.normalise_experts = true;
  read_rotary_decoder(fields, config);
  const std::int64_t window = fields.size_or("sliding_window", 0, 0), experts = fields.size("num_local_experts");
  for (LayerConfig& layer : config.layers) {
    layer.window = window;
    layer.experts = experts;
    check_layer(config, layer, fields.name());
  }
}

}  // namespace

const Architecture kMixtral{"mixtral", kModelTypes, "model.layers.", rules::kGlobals, kLayer, rules::kIgnored, kConfigKeys, read_config};

}  // namespace miq
