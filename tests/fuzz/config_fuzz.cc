// config.json, as a merge patch of a small model's of one family (the first byte says which) or of our own normalised form ('n').
// What is accepted has sizes that hold together, and its normalised form reads back as itself.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "miq/base/error.h"
#include "miq/formats/json.h"
#include "miq/model/architecture.h"
#include "miq/model/config.h"

namespace {

using miq::Json;

Json base(const std::string& type) {
  Json json{{"model_type", type}, {"vocab_size", 64}, {"hidden_size", 32}, {"intermediate_size", 48}, {"num_hidden_layers", 2}, {"num_attention_heads", 4},
            {"num_key_value_heads", 2}, {"rms_norm_eps", 1e-5}, {"max_position_embeddings", 128}, {"hidden_act", "silu"}};
  if (type == "opt") json.update({{"ffn_dim", 48}, {"activation_function", "relu"}, {"do_layer_norm_before", true}, {"word_embed_proj_dim", 32}, {"hidden_act", nullptr}});
  if (type == "qwen") json.update({{"layer_norm_epsilon", 1e-5}, {"kv_channels", 8}, {"seq_length", 128}, {"no_bias", true}, {"rotary_pct", 1.0}, {"rotary_emb_base", 10000}, {"num_key_value_heads", nullptr}});
  if (type == "mixtral") json.update({{"num_local_experts", 4}, {"num_experts_per_tok", 2}});
  if (type.starts_with("qwen3")) json["head_dim"] = 8;
  if (type.ends_with("_moe")) {
    json.update({{"num_experts", 4}, {"num_experts_per_tok", 2}, {"moe_intermediate_size", 24}, {"decoder_sparse_step", 1}, {"norm_topk_prob", true}});
  }
  if (type == "qwen2_moe") json["shared_expert_intermediate_size"] = 24;
  return json;
}

void expect(bool condition) {
  if (!condition) std::abort();
}

constexpr const char* kTypes[] = {"llama", "mistral", "qwen", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe", "opt", "other"};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  // A base that is refused itself would hide everything behind its fault.
  static const bool kBasesAreGood = [] {
    for (const char* type : kTypes) {
      try {
        miq::config_from_hugging_face(base(type), type);
      } catch (const miq::FormatError& error) {
        std::fprintf(stderr, "%s\n", error.what());
        std::abort();
      }
    }
    return true;
  }();
  expect(kBasesAreGood);
  const std::string rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    const bool own = data[0] == 'n';
    static const Json kOwn = miq::config_from_hugging_face(base("qwen2_moe"), "base").to_json();
    static const std::vector<Json> kBases = [] {
      std::vector<Json> bases;
      for (const char* type : kTypes) bases.push_back(base(type));
      return bases;
    }();
    Json json = own ? kOwn : kBases[data[0] % 10];
    json.merge_patch(miq::parse_json(rest, "patch"));
    // A hundred thousand layers alike tell nothing that a hundred do not, and take a thousand times as long.
    const auto layers = json.find("num_hidden_layers");
    if (layers != json.end() && layers->is_number_unsigned() && layers->get<std::uint64_t>() > 100 && layers->get<std::uint64_t>() <= miq::kMostLayers) return 0;
    std::vector<std::string> warnings;
    const miq::Config config = own ? miq::Config::from_json(json, "input") : miq::config_from_hugging_face(json, "input", &warnings);
    expect(config.vocabulary > 0 && config.hidden > 0 && !config.layers.empty() && config.layers.size() <= miq::kMostLayers);
    if (config.layers.size() > 100) return 0;
    for (const miq::LayerConfig& layer : config.layers) {
      if (!layer.identity) miq::check_layer(config, layer, "accepted");
    }
    const Json normal = config.to_json();
    expect(miq::Config::from_json(normal, "normal").to_json() == normal);
  } catch (const miq::FormatError&) {
  }
  return 0;
}
