// Facts: transformers models/qwen3. The head dimension stands in the config and is 128 where it does not.
#include "miq/model/architecture_qwen3.h"

#include "miq/model/common_rules.h"

namespace miq {
namespace {

constexpr std::string_view kModelTypes[] = {"qwen3"};
constexpr auto kLayer = rules::join(rules::kAttention, rules::kMlp);
constexpr std::string_view kConfigKeys[] = {"attention_bias", "use_sliding_window", "sliding_window", "max_window_layers"};

void read_config(const ConfigFields& fields, Config& config) {
  fields.size("head_dim");  // hidden_size / num_attention_heads is not what it defaults to
  read_rotary_decoder(fields, config);
  read_late_windows(fields, config);
  config.query_bias = config.output_bias = fields.flag_or("attention_bias", false);
  config.query_key_norm = true;
}

}  // namespace

const Architecture kQwen3{"qwen3", kModelTypes, "model.layers.", rules::kGlobals, kLayer, rules::kIgnored, kConfigKeys, read_config};

}  // namespace miq
