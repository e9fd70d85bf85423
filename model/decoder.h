// One decoder layer in plain LibTorch operations, for every architecture: what differs between them stands
// in Config and in the roles of the architecture's tensors. Autograd differentiates this form; where our own
// kernels exist (bf16_layer.h) they compute the same.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "miq/model/forward.h"
#include "miq/model/norm.h"
#include "miq/model/rope.h"

namespace miq {

struct SharedRows;

// Two steps of a layer that generation takes in its own way (generate.h).
class LayerSteps {
 public:
  virtual ~LayerSteps() = default;
  // x [tokens, in] times the transposes of matrices [out, in]: one [tokens, out] for each, in the matrices' type.
  virtual std::vector<at::Tensor> products(const at::Tensor& x, std::span<const at::Tensor> matrices) = 0;
  // Attention of the tokens over themselves and what came before them. Queries [heads, tokens, head_dim], keys and values [kv_heads,
  // tokens, head_dim], normalised and rotated -> [tokens, heads * head_dim] of the same type.
  virtual at::Tensor attend(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values) = 0;
};

// What one layer needs beside its weights.
struct LayerContext {
  const Config& config;
  const LayerConfig& sizes;
  ComputeType type;
  RopeTable rope;                      // the rows of the tokens' positions; empty where positions are learned
  const SharedRows* shared = nullptr;  // shared_prefix.h; null: the rows are one window
  LayerSteps* steps = nullptr;         // null: by LibTorch's operations
  bool fused = false;                  // in the form that GPUs want, where no gradient is asked for: fewer passes over memory (Kernels::Device)
};

// Called with the name and the output [tokens, out] of every linear, its bias added.
using OutputObserver = std::function<void(std::string_view name, const at::Tensor& output)>;

// hidden [tokens, width before] float32 -> [tokens, width after]. Obeys the calling thread's grad mode. `inputs_only` leaves
// the last product out; the result then has no meaning.
at::Tensor decode_layer(const LayerContext& context, const LayerWeights& layer, const at::Tensor& hidden, const InputObserver& on_input,
                        const OutputObserver& on_output, bool inputs_only = false);

// The same layer in steps, for those who replace linears between them (staged_pass.h). "Inputs" are what linears read, [tokens, in] in the compute
// type; "the stream" is the residual one, float32.
struct LayerSequence {
  const LayerContext& context;
  const LayerWeights& layer;

  at::Tensor attention_input(const at::Tensor& hidden) const;                                // of q, k and v
  at::Tensor attention_inside(const at::Tensor& input) const;                                // of the output matrix
  at::Tensor behind_attention(const at::Tensor& hidden, const at::Tensor& inside) const;     // the stream
  // REQUIRES: no experts.
  at::Tensor mlp_input(const at::Tensor& middle) const;                                      // of gate and up
  at::Tensor mlp_inside(const at::Tensor& input) const;                                      // of down
  at::Tensor behind_mlp(const at::Tensor& middle, const at::Tensor& inside) const;           // the layer's output
  // From the stream behind attention; shows the inputs of the MLP or the experts on the way. `last`: stops behind this site's inputs, the
  // result then has no meaning.
  at::Tensor feed(const at::Tensor& middle, const InputObserver& on_input, std::optional<InputSite> last = {}) const;
};

// The halves of a layer: to the residual stream behind attention, and from there to the layer's output.
at::Tensor decode_attention(const LayerContext& context, const LayerWeights& layer, const at::Tensor& hidden);
at::Tensor decode_mlp(const LayerContext& context, const LayerWeights& layer, const at::Tensor& middle);

// The norm with this role of a layer.
Norm layer_norm(const Config& config, const LayerWeights& layer, Role role);

inline at::ScalarType scalar_type(ComputeType type) { return type == ComputeType::Float32 ? at::kFloat : at::kBFloat16; }

}  // namespace miq
