// The last step that every reader of foreign checkpoints shares: a configuration, tensors by the source's
// names and the small files become one validated Model.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "miq/model/model.h"

namespace miq {

struct CheckpointParts {
  std::string where;         // the file or folder, for messages
  std::string name;          // of the model
  std::string config_where;  // for messages about the config: ".../config.json", "x.bin (config)"
  Json config;               // with the keys of a Hugging Face config.json
  std::map<std::string, Tensor> tensors;
  std::map<std::string, Blob> files;  // those of model_file_names() that the source has; the tokenizer is made of them
  Json source = Json::object();       // becomes Model::source: {"format": "hugging_face", …}

  // Structured pruning (LLM-Pruner) changes layers one by one and leaves the config as it was. Where true,
  // each layer's query heads, key/value heads and MLP width follow from its tensors' rows and `head_dim` of
  // the config; where false, tensors that differ from the config are an error.
  bool sizes_from_tensors = false;
  // What the modules themselves say about a layer, by its number; stands above the config and the tensors.
  std::map<std::int64_t, LayerConfig> layers;
  // Corrects the config by the tensors, under their final names, before the head is looked at; for kinds
  // whose config is that of another model (slicegpt.h). May be null.
  std::function<void(Config& config, const std::map<std::string, Tensor>& tensors)> adjust;
};

// In this order: the config is read; wrappers' prefixes ("module.") are taken off and the base model's own
// ("model.") is put on where the source lacks it; the buffers that the architecture names as ignored go;
// `adjust`; a tied head that is stored all the same goes (it must equal the embedding, or stand in its place); the
// layers' sizes are set; validate(). Throws Error naming `where`, the tensor and what to do.
Model assemble_model(CheckpointParts parts);

}  // namespace miq
