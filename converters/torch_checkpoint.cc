// Which part of the file is the model is found by what it is, a module or a dict of tensors, and only then
// by the key that it stands under. A module's config object and its tokenizer hold what their files would:
// the config's attributes, the Rust tokenizer's own JSON, SentencePiece's own proto.
// Facts: transformers configuration_utils.py (to_dict), tokenization_utils_fast.py, tokenization_llama.py
// (__getstate__); huggingface/tokenizers bindings (Tokenizer.__getstate__ is the JSON).
#include "miq/converters/torch_checkpoint.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>

#include "miq/base/error.h"
#include "miq/converters/slicegpt.h"
#include "miq/formats/mapped_file.h"
#include "miq/formats/pickle_objects.h"
#include "miq/model/method_record.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 6> kModelKeys{"model", "state_dict", "model_state_dict", "module", "net", "weights"};

bool holds_weights(const TorchFile& file, NodeId node) { return is_module(file.tree(), node) || is_state_dict(file, node); }

// The module or state dict in the file.
NodeId find_model(const TorchFile& file) {
  const PickleTree& tree = file.tree();
  if (holds_weights(file, file.root())) return file.root();
  std::map<std::string, NodeId, std::less<>> candidates;
  for (const auto& [key, value] : dict_items(tree, file.root())) {
    if (const auto name = as_string(tree, key); name && holds_weights(file, value)) candidates.emplace(*name, value);
  }
  if (candidates.size() == 1) return candidates.begin()->second;
  for (const std::string_view key : kModelKeys) {
    if (const auto found = candidates.find(key); found != candidates.end()) return found->second;
  }
  if (candidates.empty()) {
    throw FormatError(file.name(),
                      "no model in it: neither a dict of tensors nor an nn.Module" +
                          std::string(is_dict(tree, file.root()) ? "" : ", but a " + class_of(tree, file.root())),
                      "Give the file with the weights");
  }
  std::string names;
  for (const auto& [name, node] : candidates) names += (names.empty() ? "" : ", ") + name;
  throw FormatError(file.name(), "several entries could be the model: " + names,
                    "Save the one that is meant alone, or under the key 'model'");
}

// transformers.models.llama.configuration_llama.LlamaConfig -> "llama"
std::string model_type_of(const std::string& class_name) {
  static constexpr std::string_view kModels = "transformers.models.";
  if (!class_name.starts_with(kModels)) return {};
  return class_name.substr(kModels.size(), class_name.find('.', kModels.size()) - kModels.size());
}

// A config object, dict or JSON text as config.json has it; null when the node is none.
Json config_of(const TorchFile& file, NodeId node) {
  const PickleTree& tree = file.tree();
  Json raw = to_json(tree, node);
  if (raw.is_string() && raw.get<std::string>().starts_with("{")) raw = parse_json(raw.get<std::string>(), file.name() + " (config)");
  if (!raw.is_object()) return nullptr;
  Json config = Json::object();
  for (auto& [key, value] : raw.items()) {
    // What a class keeps for itself; "_name_or_path" may be a path of the machine that saved it.
    if ((key.starts_with("_") && key != "_remove_final_layer_norm") || key == "name_or_path") continue;
    if (value.is_object() && (value.contains("__opaque__") || value.contains("__omitted__"))) continue;
    if (value.is_string() && value.get<std::string>().starts_with("torch.")) value = value.get<std::string>().substr(6);
    config[key] = std::move(value);
  }
  if (!config.contains("model_type")) {
    if (const std::string type = model_type_of(class_of(tree, node)); !type.empty()) config["model_type"] = type;
  }
  return config.contains("model_type") && config.contains("hidden_size") ? config : Json();
}

// The config attribute of the outermost module that has one (a wrapper has none).
Json module_config(const TorchFile& file, const TorchWeights& weights) {
  for (const auto& [name, module] : weights.modules) {
    if (std::ranges::count(name, '.') > 1) continue;
    if (const NodeId node = attribute(file.tree(), module, "config"); node != kNoNode) {
      if (Json config = config_of(file, node); !config.is_null()) return config;
    }
  }
  return nullptr;
}

// Objects of the tokenizers library as tokenizer_config.json writes them; nothing that is a path.
Json tokenizer_config(const PickleTree& tree, NodeId init_kwargs) {
  Json config = to_json(tree, init_kwargs);
  if (!config.is_object()) return Json::object();
  for (const char* key :
       {"name_or_path", "vocab_file", "merges_file", "tokenizer_file", "special_tokens_map_file", "tokenizer_object", "__slow_tokenizer"}) {
    config.erase(key);
  }
  for (auto& [key, value] : config.items()) {
    if (!value.is_object()) continue;
    const auto name = value.find("__class__");  // of an object; a plain dict may hold anything under it
    if (name == value.end() || !name->is_string() || !name->get_ref<const std::string&>().ends_with("AddedToken")) continue;
    value.erase(name);
    value["__type"] = "AddedToken";
  }
  return config;
}

std::map<std::string, Blob> tokenizer_files(const TorchFile& file, NodeId tokenizer) {
  const PickleTree& tree = file.tree();
  std::map<std::string, Blob> files;
  if (const NodeId fast = attribute(tree, tokenizer, "_tokenizer"); fast != kNoNode) {
    if (const auto json = as_bytes(tree, tree.state(fast))) files["tokenizer.json"] = Blob(std::string_view(*json));
  }
  if (const auto proto = as_bytes(tree, attribute(tree, tokenizer, "sp_model_proto")); proto && files.empty()) {
    files["tokenizer.model"] = Blob(std::string_view(*proto));
  }
  if (files.empty()) return files;
  const Json config = tokenizer_config(tree, attribute(tree, tokenizer, "init_kwargs"));
  if (!config.empty()) files["tokenizer_config.json"] = Blob(std::string_view(config.dump(1)));
  return files;
}

// What a dict says beside model, tokenizer and config.
Json notes_of(const TorchFile& file, NodeId model) {
  const PickleTree& tree = file.tree();
  Json notes = Json::object();
  if (model == file.root()) return notes;
  for (const auto& [key, value] : dict_items(tree, file.root())) {
    const auto name = as_string(tree, key);
    if (!name || value == model || *name == "tokenizer" || holds_weights(file, value)) continue;
    PickleJsonLimits limits;
    limits.max_values = 1000;
    limits.max_text = 1u << 16;
    notes[std::string(*name)] = to_json(tree, value, limits);
  }
  return notes;
}

// The weights' file of a folder that has nothing else to say what it is.
std::string file_of(const std::string& path) {
  std::error_code failed;
  const fs::path file = fs::path(path) / "pytorch_model.bin";
  return fs::is_directory(path, failed) && !fs::exists(fs::path(path) / "config.json", failed) ? file.string() : path;
}

std::string folder_of(const std::string& path) {
  const fs::path folder = fs::weakly_canonical(fs::absolute(path)).parent_path();
  return folder.string();
}

// A module whose head and embedding are one tensor is tied, whatever its config says.
void settle_tied_head(const TorchWeights& weights, Json& config) {
  const TorchTensor *embedding = nullptr, *head = nullptr;
  for (const auto& [name, tensor] : weights.tensors) {
    if (name.ends_with("embed_tokens.weight")) embedding = &tensor;
    if (name.ends_with("lm_head.weight")) head = &tensor;
  }
  if (embedding && head) config["tie_word_embeddings"] = embedding->same_view(*head);
}

Json structure_of(const std::map<std::int64_t, LayerConfig>& layers, const Config& config) {
  Json deleted = Json::array(), changed = Json::array();
  for (const auto& [number, sizes] : layers) {
    if (sizes.identity) {
      deleted.push_back(number);
    } else if (sizes != config.layers[static_cast<std::size_t>(number)]) {
      changed.push_back(number);
    }
  }
  Json structure = Json::object();
  if (!deleted.empty()) structure["deleted_layers"] = deleted;
  if (!changed.empty()) structure["changed_layers"] = changed;
  return structure;
}

// The method as the file states it, and what its structure shows.
Json method_of(const TorchCheckpoint& checkpoint, const Json& structure) {
  Json method = Json::object();
  for (const auto& [key, value] : checkpoint.notes.items()) {
    const std::string called = key == "method" ? "name" : key;
    const bool plain = value.is_number() || value.is_boolean() || (value.is_string() && value.get_ref<const std::string&>().size() < 200);
    if (key != "config" && plain && fits_method(called, value)) method[called] = value;
  }
  if (!method.contains("name")) method = Json::object();
  if (!structure.empty()) {
    if (!method.contains("name")) method["name"] = "structured";
    method.update(structure);
  }
  return method;
}

}  // namespace

std::string base_name(std::string path) {
  while (!path.empty() && (path.back() == '/' || path.back() == '\\')) path.pop_back();
  const auto slash = path.find_last_of("/\\");
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

std::map<std::string, Blob> small_files(const std::string& folder) {
  std::map<std::string, Blob> files;
  for (const std::string_view name : model_file_names()) {
    const fs::path file = fs::path(folder) / name;
    if (fs::is_regular_file(file)) files[std::string(name)] = Blob(std::string_view(read_text_file(file.string())));
  }
  return files;
}

bool is_torch_checkpoint(const std::string& given) {
  std::error_code failed;
  const std::string path = file_of(given);
  if (!fs::is_regular_file(path, failed)) return false;
  std::array<char, 16> start{};
  std::ifstream file(path, std::ios::binary);
  file.read(start.data(), start.size());
  return looks_like_torch_file(Bytes(reinterpret_cast<const std::uint8_t*>(start.data()), static_cast<std::size_t>(file.gcount())));
}

TorchCheckpoint read_torch_checkpoint(const std::string& path) {
  TorchCheckpoint checkpoint{open_torch_file(path), {}, {}, {}, Json::object()};
  const TorchFile& file = checkpoint.file;
  const NodeId model = find_model(file);
  checkpoint.weights = is_module(file.tree(), model) ? module_weights(file, model) : state_dict_weights(file, model);
  if (model != file.root()) {
    checkpoint.config = config_of(file, find(file.tree(), file.root(), "config"));
    checkpoint.files = tokenizer_files(file, find(file.tree(), file.root(), "tokenizer"));
  }
  if (checkpoint.config.is_null()) checkpoint.config = module_config(file, checkpoint.weights);
  checkpoint.notes = notes_of(file, model);
  return checkpoint;
}

CheckpointParts checkpoint_parts(const TorchCheckpoint& checkpoint, const std::string& path, const std::string& base) {
  const std::string folder = base.empty() ? folder_of(path) : base;
  CheckpointParts parts;
  parts.where = path;
  const std::string stem = fs::path(path).stem().string();
  parts.name = stem == "pytorch_model" ? base_name(folder_of(path)) : stem;
  std::map<std::string, Blob> beside = small_files(folder);
  parts.config = checkpoint.config;
  parts.config_where = path + " (config)";
  if (parts.config.is_null()) {
    const auto found = beside.find("config.json");
    if (found == beside.end()) {
      throw FormatError(path, "it holds no model config, and no config.json lies in '" + folder + "'",
                        "Give the base model's folder with --base-model");
    }
    parts.config_where = (fs::path(folder) / "config.json").string();
    parts.config = parse_json(found->second.text(), parts.config_where);
    parts.files["config.json"] = found->second;
  }
  beside.erase("config.json");
  // A tokenizer is taken whole from one place.
  for (auto& [name, content] : checkpoint.files.empty() ? beside : checkpoint.files) parts.files[name] = content;
  parts.tensors = read_tensors(checkpoint.file, checkpoint.weights);
  parts.source = {{"format", checkpoint.weights.whole_module() ? "torch_module" : "torch_state_dict"}};
  if (!checkpoint.weights.whole_module()) return parts;

  const ModuleLayers layers = find_layers(checkpoint.file, checkpoint.weights);
  if (layers.count > 0) parts.config["num_hidden_layers"] = layers.count;
  settle_tied_head(checkpoint.weights, parts.config);
  if (!checkpoint.config.is_null()) parts.files["config.json"] = Blob(std::string_view(parts.config.dump(1)));
  if (has_rotations(parts.tensors) || layers.count == 0) return parts;
  parts.layers =
      module_layer_sizes(checkpoint.file, checkpoint.weights, layers, config_from_hugging_face(parts.config, parts.config_where));
  return parts;
}

Model open_torch_checkpoint(const std::string& given, const std::string& base) {
  const std::string path = file_of(given);
  const TorchCheckpoint checkpoint = read_torch_checkpoint(path);
  CheckpointParts parts = checkpoint_parts(checkpoint, path, base);
  if (has_rotations(parts.tensors)) return open_slicegpt({path, base, {}, {}, {}});
  const Json structure =
      parts.layers.empty() ? Json::object() : structure_of(parts.layers, config_from_hugging_face(parts.config, parts.config_where));
  Model model = assemble_model(std::move(parts));
  model.method = method_of(checkpoint, structure);
  return model;
}

}  // namespace miq
