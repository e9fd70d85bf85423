// Models sliced by SliceGPT (Ashkboos et al. 2024, arXiv:2401.15024): the residual stream narrowed by
// rotations, norms fused into the matrices behind them. Llama and OPT. Facts: TransformerCompression,
// slicegpt/hf_utils.py (files), config.py (the json), rotate.py (widths), modules.py (RMSN).
#pragma once

#include <map>
#include <optional>
#include <string>

#include "miq/converters/assemble.h"

namespace miq {

// What is said about the slicing beside the weights. Everything is optional but `where`: the widths
// themselves always come from the tensors, and must agree with what is said.
struct SliceFacts {
  std::string where;  // for messages: what says it
  Json schedule;      // the official NAME_SPARSITY.json; null: absent
  std::string schedule_where;
  std::optional<double> sparsity;              // in [0, 1): the share of each residual width cut away
  bool sparsity_stated = true;                 // false: only the file's name says it
  std::optional<std::int64_t> round_interval;  // widths are multiples of it
  std::string base_model;                      // its name, without a path
  std::string note;
};

// A sliced model from parts whose config is the base model's: assemble_model() after the config has been
// brought to what the slices are. Model::method describes it:
//   {"name": "slicegpt", "pruning_ratio": as said, or of the file's name; "actual_ratio", "parameter_ratio",
//    "round_interval", "base_model", "sliced_head", "note"}
// actual_ratio is 1 - (mean over the layers of the columns of their query matrix) / hidden_size;
// parameter_ratio is the share of parameters removed, against the same model fused but not sliced, whose
// head is its own and which has no rotations (the count that the original reports).
// Throws Error naming both values where config, tensors and facts disagree: vocabulary, layers, heads, head
// dimension, MLP width, widths of the stream, columns of the head.
Model assemble_sliced(CheckpointParts parts, const SliceFacts& facts);

// True when the names are those of a sliced model: some layer has a rotation.
bool has_rotations(const std::map<std::string, Tensor>& tensors);

struct SliceGptSource {
  std::string path;                            // NAME_SPARSITY.pt, a folder with one, or a whole module in a pickle
  std::string base_model;                      // folder with config.json and the tokenizer; its weights are not
                                               // read. Empty: the file's own folder
  std::string json;                            // empty: the one beside the file, where there is one
  std::optional<double> sparsity;              // empty: the number in the file's name
  std::optional<std::int64_t> round_interval;  // empty: what explains the widths, of 8 (run_slicegpt's) and 1 (load_sliced_model's)
};

// Throws Error. A whole module (torch_checkpoint.h) brings its own config and tokenizer.
Model open_slicegpt(const SliceGptSource& source);

// A folder of a base model without weights, but with one .pt file and nothing else to take weights from.
bool is_slicegpt_folder(const std::string& path);

// "story_0.25" -> 0.25: the number after the last underscore, when it lies in [0, 1).
std::optional<double> sparsity_of_name(const std::string& stem);

// The schedule of a sliced model as the official json states it; for writing the pair.
Json slicing_schedule(const Config& config);

}  // namespace miq
