// One table per architecture: every tensor of a checkpoint, its role, expected shape and the part it is
// counted in, and how its config.json reads. The loader, the forward pass, the solvers, the counters and
// the exporters all read these tables; a new architecture is a new file pair and one row in architecture.cc.
#pragma once

#include <array>
#include <compare>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "miq/formats/dtype.h"
#include "miq/model/config.h"

namespace miq {

// Which activation a linear reads. Linears of one layer with the same site share their input, so they
// share one Hessian; the experts of a mixture read parts of it: the tokens routed to them (InputPlace).
enum class InputSite { Attention, AttentionOutput, Mlp, MlpOutput };
inline constexpr std::array<InputSite, 4> kInputSites{InputSite::Attention, InputSite::AttentionOutput, InputSite::Mlp, InputSite::MlpOutput};
std::string_view input_site_name(InputSite site);  // "attention", "attention_output", "mlp", "mlp_output"

// A site of a layer, and in a mixture the expert whose tokens alone are meant. -1: every token; there the
// router and the shared expert read.
struct InputPlace {
  InputSite site;
  std::int64_t expert = -1;
  auto operator<=>(const InputPlace&) const = default;
};

// The part of the model a tensor is counted in; reports show the names.
enum class Part {
  Embedding, PositionEmbedding, Attention, QueryKeyNorm, Mlp, Router, InputNorm, PostAttentionNorm, Rotation, FinalNorm, Projection, Head
};
std::string_view part_name(Part part);  // "embedding", "attention", "mlp", "input_norm", …

// What a tensor does in the forward pass (decoder.h), whatever it is called. A bias has the role of its
// matrix and `bias` set.
enum class Role {
  // of the whole model
  Embedding, Positions, EmbeddingProjection, OutputProjection, FinalNorm, Head,
  // of a layer
  InputNorm, Query, Key, Value, QueryKeyValue, QueryNorm, KeyNorm, AttentionOutput, AttentionRotation,
  MlpNorm, Gate, Up, Down, MlpRotation,
  // of a mixture of experts
  Router, ExpertGate, ExpertUp, ExpertDown, SharedGate, SharedUp, SharedDown, SharedRouter
};

// A tensor of one decoder layer, "model.layers.N." left out.
struct LayerTensorRule {
  std::string_view name;  // "self_attn.q_proj.weight"; "{}" stands for an expert's number
  Role role;
  bool bias;
  Part part;
  bool linear;      // a compressible matrix [out, in]
  InputSite site;   // linears only
  Shape (*shape)(const Config& config, const LayerConfig& layer);
  bool (*present)(const Config& config, const LayerConfig& layer) = nullptr;  // null: in every layer
};

struct GlobalTensorRule {
  std::string_view name;  // "model.embed_tokens.weight"
  Role role;
  bool bias;
  Part part;
  Shape (*shape)(const Config& config);
  bool (*present)(const Config& config) = nullptr;
};

class ConfigFields;

struct Architecture {
  std::string_view name;                            // "llama"
  std::span<const std::string_view> model_types;    // config.json "model_type" values
  std::string_view layer_prefix;                    // "model.layers."
  std::span<const GlobalTensorRule> globals;
  std::span<const LayerTensorRule> layer;           // in the order in which the forward pass uses them
  std::span<const std::string_view> ignored;        // suffixes of buffers that old files carry
  std::span<const std::string_view> config_keys;    // keys of config.json that read_config understands, beyond the common ones
  // Fills in what differs between architectures (config_fields.h); the caller has set the common fields.
  void (*read_config)(const ConfigFields& fields, Config& config);
};

// Throws Error naming what was asked for and what is supported.
const Architecture& architecture(std::string_view name);
std::span<const Architecture* const> architectures();

// "model.layers.3.self_attn.q_proj.weight"
std::string layer_tensor_name(const Architecture& architecture, std::int64_t layer, std::string_view name);
// "self_attn.q_proj.weight" -> "q_proj"; "block_sparse_moe.experts.3.w1.weight" -> "experts.3.w1"
std::string short_linear_name(std::string_view name);

// The tensors that one layer has under this config, experts written out, in the order of the rules.
// Empty for a deleted layer.
struct LayerTensor {
  std::string name;  // "self_attn.q_proj.weight", "block_sparse_moe.experts.3.w1.weight"
  const LayerTensorRule* rule;
  Shape shape;
  std::int64_t expert;  // -1: none
  bool linear() const { return rule->linear; }
  InputSite site() const { return rule->site; }
  InputPlace place() const { return {rule->site, expert}; }
};
std::vector<LayerTensor> layer_tensors(const Config& config, std::int64_t layer);
// The places that the layer's linears read, each once, in rising order. Empty for a deleted layer.
std::vector<InputPlace> input_places(const Config& config, std::int64_t layer);

// The name, "{}" left in, of the rule with this role; empty when the architecture has none.
std::string_view rule_name(const Architecture& architecture, Role role, bool bias = false);
// The same for the whole model's tensors.
std::string_view global_name(const Architecture& architecture, Role role, bool bias = false);
// "experts.{}.w1.weight", 3 -> "experts.3.w1.weight"
std::string expert_name(std::string_view name, std::int64_t expert);

// Every tensor the config asks for, in file order: name, shape, role, part, layer (-1: global), linear.
struct ExpectedTensor {
  std::string name;
  Shape shape;
  Role role;
  bool bias;
  Part part;
  std::int64_t layer;
  bool linear;
};
std::vector<ExpectedTensor> expected_tensors(const Config& config);

}  // namespace miq
