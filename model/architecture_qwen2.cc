// Facts: transformers models/qwen2. Biases are not in the config: every Qwen2 has them.
#include "miq/model/architecture_qwen2.h"

#include "miq/model/common_rules.h"

namespace miq {
namespace {

constexpr std::string_view kModelTypes[] = {"qwen2"};
constexpr auto kLayer = rules::join(rules::kAttention, rules::kMlp);
constexpr std::string_view kConfigKeys[] = {"use_sliding_window", "sliding_window", "max_window_layers"};

void read_config(const ConfigFields& fields, Config& config) {
  read_rotary_decoder(fields, config);
  read_late_windows(fields, config);
  config.query_bias = true;
}

}  // namespace

const Architecture kQwen2{"qwen2", kModelTypes, "model.layers.", rules::kGlobals, kLayer, rules::kIgnored, kConfigKeys, read_config};

}  // namespace miq
