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
    {"gguf", "GGUF file of llama.cpp", is_gguf,
     [](const std::string& path, const OpenOptions& options) { return open_gguf_model(path, options.scratch); }},
    {"slicegpt", "folder of a SliceGPT .pt and its base model's config", is_slicegpt_folder,
     [](const std::string& path, const OpenOptions& options) { return open_slicegpt({path, options.base_model, {}, {}, {}}); }},
    {"hugging_face", "Hugging Face folder", is_hugging_face_folder, open_alone<open_hugging_face_folder>},
    {"torch", "PyTorch file: state dict or whole module, pruned or sliced", is_torch_checkpoint,
     [](const std::string& path, const OpenOptions& options) { return open_torch_checkpoint(path, options.base_model); }},
};

struct Beginning {
  std::size_t at;
  std::string_view bytes, what;
};
constexpr Beginning kBeginnings[] = {
    {8, "{", "a safetensors file on its own; give the folder that holds it and its config.json"},
    {0, "version https://git-lfs", "a Git LFS pointer; fetch the real file with 'git lfs pull'"},
    {0, "<!DOCTYPE", "a web page; download the file again"},
    {0, "<html", "a web page; download the file again"},
    {0, "PYTORCH1", "a PyTorch file of the first form (PYTORCH1); write it again with torch.save"},
    {257, "ustar", "a tar archive (torch before 0.2 wrote such files); write it again with torch.save, or unpack it"},
    {0, "PK\x05\x06", "an empty zip archive"},
    {0, "\x80", "a pickle of a protocol other than 2 to 5; write it again with torch.save"},
    {0, "\x89HDF", "an HDF5 file (Keras), which is not read"},
    {0, "\x93NUMPY", "a NumPy array, which is not read"},
    {0, "\x1f\x8b", "a file compressed with gzip; unpack it first"},
    {0, "BZh", "a file compressed with bzip2; unpack it first"},
    {0, "\xfd" "7zXZ", "a file compressed with xz; unpack it first"},
    {0, "7z\xbc\xaf", "a 7-Zip archive; unpack it first"},
    {0, "\x7f" "ELF", "a program"},
};

// What a file that no row recognises looks like, for the message.
std::string guess(const std::string& path) {
  if (std::filesystem::is_directory(path)) return "a folder without config.json";
  std::string start(512, '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(start.data(), static_cast<std::streamsize>(start.size()));
  start.resize(static_cast<std::size_t>(file.gcount()));
  if (start.empty()) return "an empty or unreadable file";
  for (const Beginning& known : kBeginnings) {
    if (start.size() >= known.at && std::string_view(start).substr(known.at).starts_with(known.bytes)) return std::string(known.what);
  }
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
