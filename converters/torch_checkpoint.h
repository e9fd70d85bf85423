// PyTorch files that hold a checkpoint: a state dict, a whole nn.Module, or a dict with one of them beside
// tokenizer, config and notes, as LLM-Pruner, Wanda and magnitude scripts save them. Read as data; nothing
// that a file names is imported or called (formats/pickle.h).
#pragma once

#include <map>
#include <string>

#include "miq/converters/assemble.h"
#include "miq/converters/torch_module.h"

namespace miq {

// True for regular files that begin like a zip file or a pickle, and for folders with such a pytorch_model.bin
// and no config.json, as LLM-Pruner leaves them.
bool is_torch_checkpoint(const std::string& path);

struct TorchCheckpoint {
  TorchFile file;
  TorchWeights weights;
  Json config;                        // a model's config as the file has it, with the keys of config.json; null: none
  std::map<std::string, Blob> files;  // tokenizer.json or tokenizer.model of a pickled tokenizer, tokenizer_config.json
  Json notes = Json::object();        // the dict's other plain entries: "method", "pruning_ratio", …
};

// Throws FormatError: no weights in it, two candidates for them, or what torch_module.h refuses.
TorchCheckpoint read_torch_checkpoint(const std::string& path);

// The checkpoint ready for assemble_model(). What the file lacks, config or tokenizer, comes from `base`, a
// folder (empty: the file's own): config.json and the tokenizer's files, never weights. Throws Error saying
// what is missing and which option gives it. The parts of a whole module have the sizes of its layers.
CheckpointParts checkpoint_parts(const TorchCheckpoint& checkpoint, const std::string& path, const std::string& base);

// A validated model; sliced ones are handed to slicegpt.h.
Model open_torch_checkpoint(const std::string& path, const std::string& base = {});

// config.json and tokenizer files of a folder, by name; whichever are there.
std::map<std::string, Blob> small_files(const std::string& folder);
// The last part of a path or hub name: "org/model" -> "model".
std::string base_name(std::string path);

}  // namespace miq
