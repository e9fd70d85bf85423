// Facts: transformers models/mistral (a null window is none; a missing key means 4096).
#include "miq/model/architecture_mistral.h"

#include "miq/model/common_rules.h"

namespace miq {
namespace {

constexpr std::string_view kModelTypes[] = {"mistral"};
constexpr auto kLayer = rules::join(rules::kAttention, rules::kMlp);
constexpr std::string_view kConfigKeys[] = {"sliding_window"};

void read_config(const ConfigFields& fields, Config& config) {
  read_rotary_decoder(fields, config);
  const std::int64_t window = fields.json().contains("sliding_window") ? fields.size_or("sliding_window", 0, 0) : 4096;
  for (LayerConfig& layer : config.layers) layer.window = window;
  read_layer_types(fields, window, config);
}

}  // namespace

const Architecture kMistral{"mistral", kModelTypes, "model.layers.", rules::kGlobals, kLayer, rules::kIgnored, kConfigKeys, read_config};

}  // namespace miq
