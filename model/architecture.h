// One table per architecture: every tensor of a checkpoint, its expected shape and its role. The loader,
// the forward pass, the solvers, the counters and the exporters all read these tables; a new
// architecture is a new file pair and one row in architecture.cc.
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "miq/formats/dtype.h"
#include "miq/model/config.h"

namespace miq {

// Which activation a linear reads. Linears of one layer with the same site share their input, so they
// share one Hessian.
enum class InputSite { Attention, AttentionOutput, Mlp, MlpOutput };
inline constexpr std::array<InputSite, 4> kInputSites{InputSite::Attention, InputSite::AttentionOutput, InputSite::Mlp, InputSite::MlpOutput};
std::string_view input_site_name(InputSite site);  // "attention", "attention_output", "mlp", "mlp_output"

// The part of the model a tensor is counted in; reports show the names.
enum class Part { Embedding, Attention, Mlp, InputNorm, PostAttentionNorm, FinalNorm, Head };
std::string_view part_name(Part part);  // "embedding", "attention", "mlp", "input_norm", …

// A tensor of one decoder layer, "model.layers.N." left out.
struct LayerTensorRule {
  std::string_view name;  // "self_attn.q_proj.weight"
  Part part;
  bool linear;      // a compressible matrix [out, in]
  InputSite site;   // linears only
  Shape (*shape)(const Config& config, const LayerConfig& layer);
};

struct GlobalTensorRule {
  std::string_view name;  // "model.embed_tokens.weight"
  Part part;
  Shape (*shape)(const Config& config);
};

struct Architecture {
  std::string_view name;                            // "llama"
  std::span<const std::string_view> model_types;    // config.json "model_type" values
  std::string_view layer_prefix;                    // "model.layers."
  std::span<const GlobalTensorRule> globals;        // the head's rule last; absent from files when tied
  std::span<const LayerTensorRule> layer;           // in the order in which the forward pass uses them
  std::span<const std::string_view> ignored;        // suffixes of buffers that old files carry
};

// Throws Error naming what was asked for and what is supported.
const Architecture& architecture(std::string_view name);
std::span<const Architecture* const> architectures();

// "model.layers.3.self_attn.q_proj.weight"
std::string layer_tensor_name(const Architecture& architecture, std::int64_t layer, std::string_view name);
// "self_attn.q_proj.weight" -> "q_proj"
std::string_view short_linear_name(std::string_view name);

// Every tensor the config asks for, in file order: name, shape, part, layer (-1: global), linear.
struct ExpectedTensor {
  std::string name;
  Shape shape;
  Part part;
  std::int64_t layer;
  bool linear;
};
std::vector<ExpectedTensor> expected_tensors(const Config& config);

}  // namespace miq
