// Where the pieces of a sliced model lie: the official pair beside or apart from its base model's folder, the
// .pt alone, or everything in one pickle, whose dict then says what the json and the name would.
#include <filesystem>

#include "miq/base/error.h"
#include "miq/converters/slicegpt.h"
#include "miq/converters/torch_checkpoint.h"
#include "miq/formats/mapped_file.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

// The only .pt of a folder; empty when it has none.
std::string only_pt(const std::string& folder) {
  std::string found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".pt" || !entry.is_regular_file()) continue;
    if (!found.empty()) {
      throw FormatError(folder,
                        "holds several .pt files, among them '" + base_name(found) + "' and '" + entry.path().filename().string() + "'",
                        "Give the one that is meant");
    }
    found = entry.path().string();
  }
  return found;
}

std::string text_in(const Json& notes, const char* key) {
  const auto found = notes.find(key);
  return found != notes.end() && found->is_string() ? found->get<std::string>() : "";
}

// The dict of a whole module: {'method', 'pruning_ratio', 'config': {'base_model', 'sparsity', 'round_interval', 'note'}}.
void take_notes(const Json& notes, SliceFacts& facts) {
  const Json config = notes.contains("config") && notes["config"].is_object() ? notes["config"] : Json::object();
  for (const Json* place : {&notes, &config}) {
    for (const char* key : {"pruning_ratio", "sparsity"}) {
      if (!facts.sparsity && place->contains(key) && (*place)[key].is_number()) {
        facts.sparsity = (*place)[key].get<double>();
        facts.sparsity_stated = true;
      }
    }
    if (!facts.round_interval && place->contains("round_interval") && (*place)["round_interval"].is_number_integer()) {
      facts.round_interval = (*place)["round_interval"].get<std::int64_t>();
    }
    if (facts.note.empty()) facts.note = text_in(*place, "note");
    if (facts.base_model.empty()) facts.base_model = base_name(text_in(*place, "base_model"));
  }
}

}  // namespace

bool is_slicegpt_folder(const std::string& path) {
  std::error_code failed;
  if (!fs::is_directory(path, failed) || !fs::exists(fs::path(path) / "config.json", failed)) return false;
  bool slices = false;
  for (const auto& entry : fs::directory_iterator(path, failed)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".safetensors" || extension == ".gguf" || entry.path().filename().string().starts_with("pytorch_model")) return false;
    slices = slices || extension == ".pt";
  }
  return slices;
}

Model open_slicegpt(const SliceGptSource& source) {
  if (!fs::exists(source.path)) throw FormatError(source.path, "no such file or folder");
  const std::string path = fs::is_directory(source.path) ? only_pt(source.path) : source.path;
  if (path.empty()) throw FormatError(source.path, "a folder without a .pt file", "Give the file of sliced weights");
  if (!is_torch_checkpoint(path)) {
    throw FormatError(path, "no PyTorch file", "Give the .pt file that SliceGPT saved, or a pickle of the whole module");
  }
  if (source.sparsity && !(*source.sparsity >= 0 && *source.sparsity < 1)) {
    throw UsageError("a sparsity of " + Json(*source.sparsity).dump() + " is outside [0, 1)");
  }
  const TorchCheckpoint checkpoint = read_torch_checkpoint(path);
  CheckpointParts parts = checkpoint_parts(checkpoint, path, source.base_model);
  if (!has_rotations(parts.tensors)) {
    throw FormatError(path, "no layer has a rotation 'attn_shortcut_Q': these are not the weights of a model sliced by SliceGPT",
                      "Use convert-checkpoint for other checkpoints");
  }
  parts.name = fs::path(path).stem().string();
  parts.source = {{"format", checkpoint.weights.whole_module() ? "slicegpt_module" : "slicegpt"}};

  SliceFacts facts;
  facts.where = path;
  facts.sparsity = source.sparsity;
  facts.round_interval = source.round_interval;
  const std::string json = source.json.empty() ? fs::path(path).replace_extension(".json").string() : source.json;
  if (!source.json.empty() || fs::is_regular_file(json)) {
    facts.schedule = parse_json(read_text_file(json), json);
    facts.schedule_where = json;
  }
  take_notes(checkpoint.notes, facts);
  const std::optional<double> named = sparsity_of_name(parts.name);
  if (!facts.sparsity && named) {
    facts.sparsity = named;
    facts.sparsity_stated = false;
  }
  if (facts.base_model.empty()) {
    const bool apart = !source.base_model.empty() && !fs::equivalent(fs::path(source.base_model), fs::absolute(path).parent_path());
    facts.base_model =
        apart || !named
            ? base_name(
                  fs::weakly_canonical(source.base_model.empty() ? fs::absolute(path).parent_path() : fs::path(source.base_model)).string())
            : parts.name.substr(0, parts.name.rfind('_'));
  }
  return assemble_sliced(std::move(parts), facts);
}

}  // namespace miq
