// The table of sources, most specific first, and what to say about files that are none of them.
#include "miq/converters/open_model.h"

#include <filesystem>
#include <fstream>

#include "miq/base/error.h"
#include "miq/converters/gguf_model.h"
#include "miq/converters/hugging_face.h"
#include "miq/converters/miq_model.h"
#include "miq/converters/sidecar.h"
#include "miq/converters/slicegpt.h"
#include "miq/converters/torch_checkpoint.h"

namespace miq {
namespace {

// Sources that have everything themselves.
template <Model (*Open)(const std::string& path)>
Model open_alone(const std::string& path, const OpenOptions&) {
  return Open(path);
}

constexpr SourceKind kKinds[] = {
    {"miq", "container of this suite", is_miq, open_alone<load_model>},
    {"gguf", "GGUF file of llama.cpp", is_gguf, open_alone<open_gguf_model>},
    {"slicegpt", "folder of a SliceGPT .pt and its base model's config", is_slicegpt_folder,
     [](const std::string& path, const OpenOptions& options) { return open_slicegpt({path, options.base_model, {}, {}, {}}); }},
    {"hugging_face", "Hugging Face folder", is_hugging_face_folder, open_alone<open_hugging_face_folder>},
    {"torch", "PyTorch file: state dict or whole module, pruned or sliced", is_torch_checkpoint,
     [](const std::string& path, const OpenOptions& options) { return open_torch_checkpoint(path, options.base_model); }},
};

// What a file that no row recognises looks like, for the message.
std::string guess(const std::string& path) {
  if (std::filesystem::is_directory(path)) return "a folder without config.json";
  unsigned char start[9] = {};
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(start), 9);
  const auto size = file.gcount();
  if (size == 0) return "an empty or unreadable file";
  if (size >= 9 && start[8] == '{') return "a safetensors file on its own; give the folder that holds it and its config.json";
  if (start[0] == 'v' && start[1] == 'e' && start[2] == 'r') return "a text file that begins like a Git LFS pointer; fetch the real file";
  return "a file of unknown kind (wrong magic, or truncated)";
}

}  // namespace

std::span<const SourceKind> source_kinds() { return kKinds; }

OpenedCheckpoint open_checkpoint(const std::string& path, const OpenOptions& options) {
  if (!std::filesystem::exists(path)) throw FormatError(path, "no such file or folder");
  for (const SourceKind& kind : kKinds) {
    if (!kind.recognises(path)) continue;
    OpenedCheckpoint opened{kind.open(path, options), &kind, false, {}};
    validate(opened.model, path);
    opened.notes = opened.model.warnings;
    if (std::filesystem::is_directory(path)) {
      ThreadPool pool;
      Restored restored = restore_from_sidecar(opened.model, path, pool);
      opened.restored = restored.done;
      if (!restored.note.empty()) opened.notes.push_back(std::move(restored.note));
    }
    return opened;
  }
  std::string known;
  for (const SourceKind& kind : kKinds) known += (known.empty() ? "" : "; ") + std::string(kind.description);
  throw FormatError(path, "not a checkpoint that miq reads: it looks like " + guess(path), "Read are: " + known);
}

Model open_model(const std::string& path, const OpenOptions& options) { return open_checkpoint(path, options).model; }

}  // namespace miq
