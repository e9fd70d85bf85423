// A folder is read in the order config, tokenizer, weights, so that what is cheap to refuse is refused
// before anything large is mapped. Facts: huggingface_hub serialization (index file), transformers
// modeling_utils.py (names, tied heads).
#include "miq/converters/hugging_face.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "miq/base/error.h"
#include "miq/formats/mapped_file.h"
#include "miq/formats/safetensors.h"
#include "miq/model/architecture.h"

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

bool same_elements(const Tensor& a, const Tensor& b) {
  return a.dtype == b.dtype && a.shape == b.shape && std::ranges::equal(decode(a, "").bytes(), decode(b, "").bytes());
}

// A tied head may be stored all the same, or in place of the embedding (safetensors' save_model keeps one of
// two shared tensors): once is enough, but two must really be the same.
void drop_tied_head(Model& model, const std::string& path) {
  const Architecture& row = architecture(model.config.architecture);
  const auto rule = [&](Part part) {
    return std::string(std::ranges::find_if(row.globals, [&](const GlobalTensorRule& r) { return r.part == part; })->name);
  };
  const auto head = model.tensors.find(rule(Part::Head));
  if (head == model.tensors.end()) return;
  if (!model.config.tied_head) return;
  const auto embedding = model.tensors.find(rule(Part::Embedding));
  if (embedding == model.tensors.end()) {
    model.tensors.emplace(rule(Part::Embedding), head->second);
  } else if (!same_elements(head->second, embedding->second)) {
    throw FormatError(path, "the config ties the head to the embedding, but '" + head->first + "' differs from it", "Set tie_word_embeddings to false in a copy of config.json to use the stored head");
  }
  model.tensors.erase(head);
}

}  // namespace

bool is_hugging_face_folder(const std::string& path) { return fs::is_directory(path) && fs::exists(fs::path(path) / "config.json"); }

Model open_hugging_face_folder(const std::string& path) {
  const fs::path folder(path);
  Model model;
  model.name = fs::weakly_canonical(folder).filename().string();
  for (std::string_view name : model_file_names()) {
    const fs::path file = folder / name;
    if (fs::is_regular_file(file)) model.files[std::string(name)] = Blob(read_text_file(file.string()));
  }
  const std::string config_path = (folder / "config.json").string();
  model.config = config_from_hugging_face(parse_json(read_text_file(config_path), config_path), config_path);
  model.tokenizer = load_tokenizer(model.files, path);

  const std::string index = (folder / "model.safetensors.index.json").string(), single = (folder / "model.safetensors").string();
  if (fs::exists(index)) {
    model.tensors = read_shards(folder, index);
  } else if (fs::exists(single)) {
    take_tensors(open_safetensors(single), model.tensors);
  } else if (fs::exists(folder / "pytorch_model.bin") || fs::exists(folder / "pytorch_model.bin.index.json")) {
    throw FormatError(path, "the weights are Python pickles (pytorch_model.bin), which this version does not read", "Give the safetensors version of the checkpoint");
  } else {
    throw FormatError(path, "no weights found: neither model.safetensors nor model.safetensors.index.json is there", "Download the checkpoint again, whole");
  }
  const Architecture& row = architecture(model.config.architecture);
  std::erase_if(model.tensors, [&](const auto& entry) {
    return std::ranges::any_of(row.ignored, [&](std::string_view suffix) { return entry.first.ends_with(suffix); });
  });
  drop_tied_head(model, path);
  model.source = {{"format", "hugging_face"}};
  return model;
}

}  // namespace miq
