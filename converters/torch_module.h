// The weights in a PyTorch file by name: a state dict, or a whole nn.Module as its state_dict() names them.
// Modules are read as data: any object whose state has `_parameters` and `_modules` is one, whatever its
// class, which is never looked up. Facts: torch/nn/modules/module.py (state_dict, _save_to_state_dict).
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "miq/formats/torch_file.h"
#include "miq/model/config.h"

namespace miq {

struct TorchWeights {
  std::map<std::string, TorchTensor> tensors;  // "model.layers.0.self_attn.q_proj.weight"
  std::map<std::string, NodeId> modules;       // by dotted name, the outermost as ""; empty for a state dict
  bool whole_module() const { return !modules.empty(); }
};

bool is_module(const PickleTree& tree, NodeId node);
// A dict with at least one tensor under a text key.
bool is_state_dict(const TorchFile& file, NodeId node);

// Parameters and persistent buffers of the module and all within it. None values are left out, as are hooks
// and whatever else hangs on a module. Throws FormatError for tensors that are not read (torch_file.h), for
// modules that nest deeper than 64 or contain themselves.
TorchWeights module_weights(const TorchFile& file, NodeId module);
// The tensors of a dict. Entries that are no tensors are left out when they are plain values; FormatError
// names an entry that holds weights in another form.
TorchWeights state_dict_weights(const TorchFile& file, NodeId dict);

// The tensors themselves, dense, in their own types.
std::map<std::string, Tensor> read_tensors(const TorchFile& file, const TorchWeights& weights);

// The decoder layers of a whole module: the modules "….layers.N", counted from 0 without gaps.
struct ModuleLayers {
  std::string prefix;  // "model.layers."; empty: no such modules
  std::int64_t count = 0;
};
ModuleLayers find_layers(const TorchFile& file, const TorchWeights& weights);

// Each layer's sizes: `config` with the head dimension that its attention module states (head_dim), the
// query and key/value heads that the tensors' rows then make, and the rows of its MLP. A layer without any
// tensor whose class is named like an identity (core.models.IdentityDecoderLayer) becomes one, its number kept.
// Throws FormatError naming both numbers where a module's own num_heads, num_key_value_heads or
// num_key_value_groups contradict its tensors, and the class of a layer without tensors that is no identity.
std::map<std::int64_t, LayerConfig> module_layer_sizes(const TorchFile& file, const TorchWeights& weights, const ModuleLayers& layers,
                                                       const Config& config);

}  // namespace miq
