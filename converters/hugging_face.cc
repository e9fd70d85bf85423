// A folder is read in the order config, tokenizer, weights, so that what is cheap to refuse is refused
// before anything large is mapped. Facts: huggingface_hub serialization (index file), transformers
// modeling_utils.py (names, tied heads).
#include "miq/converters/hugging_face.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "miq/base/error.h"
#include "miq/converters/assemble.h"
#include "miq/formats/mapped_file.h"
#include "miq/formats/safetensors.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

// A shard is a plain file name: nothing that leaves the folder, nothing of another kind.
void check_shard_name(const std::string& shard, const std::string& index) {
  const bool plain = !shard.empty() && shard.find_first_of("/\\:") == std::string::npos && shard.find('\0') == std::string::npos && shard[0] != '.' &&
                     shard.ends_with(".safetensors");
  if (!plain) throw FormatError(index, "shard name " + Json(shard).dump() + " is not the plain name of a .safetensors file", "Refused: it could point outside the folder");
}

void take_tensors(const SafetensorsFile& file, std::map<std::string, Tensor>& tensors) {
  for (const auto& [name, entry] : file.entries) tensors[name] = dense_tensor(entry.dtype, entry.shape, file.data(entry));
}

std::map<std::string, Tensor> read_shards(const fs::path& folder, const std::string& index_path) {
  const Json index = parse_json(read_text_file(index_path), index_path);
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) throw FormatError(index_path, "key 'weight_map' is missing");
  std::map<std::string, std::set<std::string>> names_of_shard;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string()) throw FormatError(index_path, "shard of tensor '" + name + "' is not a string");
    check_shard_name(shard.get<std::string>(), index_path);
    names_of_shard[shard.get<std::string>()].insert(name);
  }
  std::map<std::string, Tensor> tensors;
  for (const auto& [shard, names] : names_of_shard) {
    const std::string path = (folder / shard).string();
    if (!fs::is_regular_file(path)) throw FormatError(index_path, "shard '" + shard + "' is missing", "Download the checkpoint again, whole");
    const SafetensorsFile file = open_safetensors(path);
    for (const std::string& name : names) {
      if (!file.entries.contains(name)) throw FormatError(path, "tensor '" + name + "' is missing, though the index places it here", "The index is stale");
    }
    for (const auto& [name, entry] : file.entries) {
      if (!names.contains(name)) throw FormatError(path, "tensor '" + name + "' is not in the index for this shard", "The index is stale, or the shard belongs to another checkpoint");
    }
    take_tensors(file, tensors);
  }
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") && !names_of_shard.contains(name)) {
      throw FormatError(index_path, "file '" + name + "' lies beside the shards but is not in the index", "Remove it, or the index if the file is the whole checkpoint");
    }
  }
  return tensors;
}

// The hub's cache keeps a model at models--ORG--NAME/snapshots/COMMIT: COMMIT is no name for people.
std::string name_of(const fs::path& folder) {
  const fs::path whole = fs::weakly_canonical(folder);
  const std::string repository = whole.parent_path().parent_path().filename().string();
  if (whole.parent_path().filename() != "snapshots" || !repository.starts_with("models--")) return whole.filename().string();
  return repository.substr(repository.rfind("--") + 2);
}

}  // namespace

bool is_hugging_face_folder(const std::string& path) { return fs::is_directory(path) && fs::exists(fs::path(path) / "config.json"); }

Model open_hugging_face_folder(const std::string& path) {
  const fs::path folder(path);
  CheckpointParts parts;
  parts.where = path;
  parts.name = name_of(folder);
  for (std::string_view name : model_file_names()) {
    const fs::path file = folder / name;
    if (fs::is_regular_file(file)) parts.files[std::string(name)] = Blob(read_text_file(file.string()));
  }
  parts.config_where = (folder / "config.json").string();
  parts.config = parse_json(read_text_file(parts.config_where), parts.config_where);
  config_from_hugging_face(parts.config, parts.config_where);  // refuses before anything large is mapped

  const std::string index = (folder / "model.safetensors.index.json").string(), single = (folder / "model.safetensors").string();
  if (fs::exists(index)) {
    parts.tensors = read_shards(folder, index);
  } else if (fs::exists(single)) {
    take_tensors(open_safetensors(single), parts.tensors);
  } else if (fs::exists(folder / "pytorch_model.bin") || fs::exists(folder / "pytorch_model.bin.index.json")) {
    throw FormatError(path, "the weights are Python pickles (pytorch_model.bin), which this version does not read", "Give the safetensors version of the checkpoint");
  } else {
    throw FormatError(path, "no weights found: neither model.safetensors nor model.safetensors.index.json is there", "Download the checkpoint again, whole");
  }
  parts.source = {{"format", "hugging_face"}};
  return assemble_model(std::move(parts));
}

}  // namespace miq
