// Facts: huggingface_hub serialization (index file), transformers modeling_utils.py (names and preference).
#include "miq/converters/weight_files.h"

#include <filesystem>
#include <set>

#include "miq/base/error.h"
#include "miq/converters/weight_index.h"
#include "miq/formats/mapped_file.h"
#include "miq/formats/pickle_objects.h"
#include "miq/formats/safetensors.h"
#include "miq/formats/torch_file.h"

namespace miq {
namespace {

namespace fs = std::filesystem;
using Tensors = std::map<std::string, Tensor>;

Tensors read_safetensors_file(const std::string& path) {
  const SafetensorsFile file = open_safetensors(path);
  Tensors tensors;
  for (const auto& [name, entry] : file.entries) tensors.emplace_hint(tensors.end(), name, dense_tensor(entry.dtype, entry.shape, file.data(entry)));
  return tensors;
}

// A state dict: texts to tensors, nothing else.
Tensors read_bin_file(const std::string& path) {
  const TorchFile file = open_torch_file(path);
  const PickleTree& tree = file.tree();
  if (!is_dict(tree, file.root())) throw FormatError(path, "does not hold a dict of tensors", "inspect-checkpoint shows what it holds");
  Tensors tensors;
  for (const auto& [key, value] : dict_items(tree, file.root())) {
    const auto name = as_string(tree, key);
    if (!name) throw FormatError(path, tree.offset(key), "a key of the dict of tensors is no text");
    const auto tensor = file.tensor(value);
    if (!tensor) {
      throw FormatError(path, tree.offset(value), "'" + std::string(*name) + "' is no tensor", "A folder's pytorch_model.bin holds tensors alone; convert the file by itself if it is a whole model");
    }
    tensors[std::string(*name)] = file.read(*tensor, *name);
  }
  return tensors;
}

struct Kind {
  std::string_view stem, ending;  // "model", ".safetensors"
  Tensors (*read)(const std::string& path);
};
constexpr Kind kKinds[] = {{"model", ".safetensors", read_safetensors_file}, {"pytorch_model", ".bin", read_bin_file}};

Tensors read_shards(const fs::path& folder, const std::string& index_path, const Kind& kind) {
  const auto names_of_shard = read_weight_index(read_text_file(index_path), index_path, kind.ending);
  // A shard that is left over makes the index stale. Other .bin files (training_args.bin) are common.
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const bool weights = name.ends_with(kind.ending) && (kind.ending == ".safetensors" || name.starts_with(kind.stem));
    if (weights && !names_of_shard.contains(name)) {
      throw FormatError(index_path, "file '" + name + "' lies beside the shards but is not in the index", "Remove it, or the index if the file is the whole checkpoint");
    }
  }
  Tensors tensors;
  for (const auto& [shard, names] : names_of_shard) {
    const std::string path = (folder / shard).string();
    std::error_code unreadable;  // a link to itself, say
    if (!fs::is_regular_file(path, unreadable)) throw FormatError(index_path, "shard '" + shard + "' is missing", "Download the checkpoint again, whole");
    Tensors found = kind.read(path);
    for (const std::string& name : names) {
      if (!found.contains(name)) throw FormatError(path, "tensor '" + name + "' is missing, though the index places it here", "The index is stale");
    }
    for (const auto& [name, tensor] : found) {
      if (!names.contains(name)) throw FormatError(path, "tensor '" + name + "' is not in the index for this shard", "The index is stale, or the shard belongs to another checkpoint");
    }
    tensors.merge(found);
  }
  return tensors;
}

}  // namespace

std::map<std::string, Tensor> read_weight_files(const std::string& path) {
  const fs::path folder(path);
  for (const Kind& kind : kKinds) {
    const std::string single = std::string(kind.stem) + std::string(kind.ending), index = (folder / (single + ".index.json")).string();
    if (fs::exists(index)) return read_shards(folder, index, kind);
    if (fs::exists(folder / single)) return kind.read((folder / single).string());
  }
  throw FormatError(path, "no weights found: none of model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json is there",
                    "Download the checkpoint again, whole");
}

}  // namespace miq
