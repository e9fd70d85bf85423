// Opens any checkpoint that the suite reads, found by content and not by its name.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "miq/formats/scratch_folder.h"
#include "miq/model/model.h"

namespace miq {

struct OpenOptions {
  // For files that lack them: a folder with config.json and tokenizer (never weights). Empty: the file's own.
  std::string base_model;
  // Where weights go that opening a source puts into another order (rows of q and k in GGUF files); null: into memory. Outlives the model.
  const ScratchFolder* scratch = nullptr;
};

// A kind of source: one row in open_model.cc, one file pair.
struct SourceKind {
  std::string_view name;         // "gguf"
  std::string_view description;  // "GGUF file of llama.cpp"
  // `path` exists. Reads a few bytes at most; never throws on odd content.
  bool (*recognises)(const std::string& path);
  Model (*open)(const std::string& path, const OpenOptions& options);
};
std::span<const SourceKind> source_kinds();

// A validated model and how it was found.
struct OpenedCheckpoint {
  Model model;
  const SourceKind* kind = nullptr;
  // A folder of ours brought back what its sidecar says (sidecar.h): the tensors' encodings are those of the
  // container that it was made from and should stay as they are.
  bool restored = false;
  std::vector<std::string> notes;  // for the user, a sentence each; model.warnings among them
};

// Throws Error: what the path holds instead, the kinds supported, what to do.
OpenedCheckpoint open_checkpoint(const std::string& path, const OpenOptions& options = {});
Model open_model(const std::string& path, const OpenOptions& options = {});  // the model of it

}  // namespace miq
