// Facts: transformers modeling_utils.py (file names, index), huggingface_hub serialization (shards filled
// greedily in order; total_size counts tensor bytes alone), safetensors metadata {"format": "pt"}.
#include "miq/converters/hugging_face_writer.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <set>

#include "miq/base/error.h"
#include "miq/converters/byte_level_json.h"
#include "miq/converters/sidecar.h"
#include "miq/converters/slicegpt_writer.h"
#include "miq/formats/atomic_file.h"
#include "miq/formats/atomic_folder.h"
#include "miq/formats/cast.h"
#include "miq/formats/digest.h"
#include "miq/formats/safetensors_writer.h"
#include "miq/model/gguf_tokenizer.h"

namespace miq {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;  // a config that is changed keeps its order

constexpr std::string_view kIndexName = "model.safetensors.index.json";

// Files that a model folder may hold and that a new one may take the place of.
bool is_model_file(const std::string& name) {
  static constexpr std::array<std::string_view, 5> kOthers{"vocab.json", "merges.txt", "pytorch_model.bin", "pytorch_model.bin.index.json", kSidecarName};
  const bool shard = (name.starts_with("model") && name.ends_with(".safetensors")) || (name.starts_with("pytorch_model-") && name.ends_with(".bin"));
  return shard || name == kIndexName || std::ranges::find(model_file_names(), name) != model_file_names().end() ||
         std::ranges::find(kOthers, name) != kOthers.end();
}

std::function<bool(const std::string&)> replaceable(const std::string& path, bool force) {
  if (!force && !fs::is_regular_file(fs::path(path) / kSidecarName)) return {};
  return is_model_file;
}

std::string_view torch_name(DType dtype) {
  switch (dtype) {
    case DType::F16: return "float16";
    case DType::BF16: return "bfloat16";
    case DType::F64: return "float64";
    default: return "float32";
  }
}

// What the folder's config.json says, and whether it is the model's own file.
struct ConfigFile {
  std::string text;
  bool own = false;
};

ConfigFile config_file(const Model& model, std::optional<DType> dtype) {
  const auto found = model.files.find("config.json");
  if (found != model.files.end()) {
    const std::string text(found->second.text()), where = model.name + " (config.json)";
    if (config_from_hugging_face(parse_json(text, where), where).to_json() == model.config.to_json()) {
      if (!dtype) return {text, true};
      OrderedJson json = OrderedJson::parse(text);
      const char* key = json.contains("dtype") ? "dtype" : "torch_dtype";
      json[key] = torch_name(*dtype);
      return {json.dump(2) + "\n", true};
    }
  }
  Json json = hugging_face_config(model.config);
  const auto embedding = model.tensors.empty() ? DType::F32 : model.tensors.begin()->second.dtype;
  json["torch_dtype"] = torch_name(dtype.value_or(embedding));
  return {json.dump(2) + "\n", false};
}

// The model as the folder holds it: cast where asked for. Only types change here; elements follow when written.
struct Planned {
  const Tensor* tensor;
  DType dtype;
};

struct Plan {
  std::map<std::string, Planned> tensors;
  std::vector<std::vector<std::string>> shards;
  std::uint64_t bytes = 0;
};

Plan plan_shards(const Model& model, const HuggingFaceOptions& options) {
  Plan plan;
  std::uint64_t in_shard = 0;
  for (const auto& [name, tensor] : model.tensors) {
    const DType dtype = options.dtype.value_or(tensor.dtype);
    const auto bytes = tensor_bytes(dtype, tensor.shape);
    if (!bytes) throw Error("tensor '" + name + "' is too large");
    if (plan.shards.empty() || (in_shard > 0 && in_shard + *bytes > options.shard_bytes)) {
      plan.shards.emplace_back();
      in_shard = 0;
    }
    plan.shards.back().push_back(name);
    plan.tensors[name] = {&tensor, dtype};
    in_shard += *bytes;
    plan.bytes += *bytes;
  }
  return plan;
}

std::string shard_name(std::size_t shard, std::size_t shards) {
  if (shards == 1) return "model.safetensors";
  char name[80];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", shard + 1, shards);
  return name;
}

// Writes the weights; returns each tensor's digest_of().
std::map<std::string, std::string> write_weights(const Plan& plan, const std::string& folder, ThreadPool& pool, const ProgressFunction& progress) {
  std::map<std::string, std::string> digests;
  Json map = Json::object();
  std::uint64_t done = 0;
  for (std::size_t shard = 0; shard < plan.shards.size(); ++shard) {
    const std::string file = shard_name(shard, plan.shards.size());
    std::vector<SafetensorsItem> items;
    for (const std::string& name : plan.shards[shard]) {
      const Planned& planned = plan.tensors.at(name);
      map[name] = file;
      items.push_back({{name, planned.dtype, planned.tensor->shape}, [&, name] {
                         if (progress) progress({"writing " + file, static_cast<double>(done), static_cast<double>(plan.bytes)});
                         const Blob data = cast_elements(decode(*planned.tensor, name, &pool), planned.tensor->dtype, planned.dtype, "tensor '" + name + "'");
                         digests[name] = digest_of(data.bytes());
                         done += data.size();
                         return data;
                       }});
    }
    write_safetensors((fs::path(folder) / file).string(), std::move(items), {{"format", "pt"}});
  }
  if (plan.shards.size() > 1) {
    const Json index{{"metadata", {{"total_size", plan.bytes}}}, {"weight_map", std::move(map)}};
    write_file_atomically((fs::path(folder) / kIndexName).string(), index.dump(2) + "\n");
  }
  return digests;
}

// The model as it will be read back from the folder: for the sidecar.
Model as_written(const Model& model, const Plan& plan, const ConfigFile& config) {
  Model written = model;
  for (auto& [name, tensor] : written.tensors) {
    const DType to = plan.tensors.at(name).dtype;
    if (tensor.dtype == to) continue;
    // A packed float32 matrix rounded afterwards is the same codes decoded to the narrower type; any other
    // change of type leaves nothing to restore.
    const bool same_codes = tensor.encoding == Encoding::Packed && tensor.dtype == DType::F32;
    if (!same_codes) tensor.encoding = Encoding::Dense;
    tensor.dtype = to;
  }
  if (config.own) written.files["config.json"] = Blob(std::string_view(config.text));
  return written;
}

// transformers does not read a GGUF's metadata: where it amounts to a tokenizer.json, that goes in too.
void write_tokenizer(const Model& model, const std::function<void(const std::string&, std::string_view)>& write, std::set<std::string>& generated,
                     std::vector<std::string>& notes) {
  if (model.files.contains("tokenizer.json") || model.files.contains("tokenizer.model")) return;
  const auto gguf = model.files.find(std::string(kGgufTokenizerFile));
  if (gguf == model.files.end()) {
    notes.push_back("the model has no tokenizer");
    return;
  }
  const std::string made = tokenizer_json_from_gguf(gguf->second.text(), model.name + " (" + gguf->first + ")");
  if (made.empty()) {
    notes.push_back("the tokenizer is in " + gguf->first + ", which miq reads and transformers does not: add the original tokenizer's files for it");
    return;
  }
  write("tokenizer.json", made);
  write("tokenizer_config.json", "{\"tokenizer_class\": \"PreTrainedTokenizerFast\"}\n");
  generated.insert({"tokenizer.json", "tokenizer_config.json"});
  notes.push_back("tokenizer.json is generated from the GGUF's metadata");
}

}  // namespace

void check_hugging_face_folder(const Model& model, const std::string& path, const HuggingFaceOptions& options) {
  if (model.config.sliced) return check_slicegpt_folder(model, path, options);
  config_file(model, options.dtype);
  AtomicFolder{path, replaceable(path, options.force)};
}

HuggingFaceExport write_hugging_face_folder(const Model& model, const std::string& path, const HuggingFaceOptions& options, ThreadPool& pool,
                                            const ProgressFunction& progress) {
  if (model.config.sliced) return write_slicegpt_folder(model, path, options, pool, progress);
  validate(model);
  if (options.shard_bytes == 0) throw UsageError("shards of 0 bytes cannot hold tensors");
  const ConfigFile config = config_file(model, options.dtype);
  const Plan plan = plan_shards(model, options);
  AtomicFolder folder(path, replaceable(path, options.force));
  const auto write = [&](const std::string& name, std::string_view text) { write_file_atomically((fs::path(folder.temporary()) / name).string(), text); };

  HuggingFaceExport result;
  result.tensors = plan.tensors.size();
  result.bytes = plan.bytes;
  result.shards = plan.shards.size();
  std::set<std::string> generated;
  for (const auto& [name, blob] : model.files) {
    if (name != "config.json") write(name, blob.text());
  }
  write("config.json", config.text);
  if (!config.own) {
    generated.insert("config.json");
    result.notes.push_back(model.files.contains("config.json") ? "config.json is generated: the model's own describes another one" : "config.json is generated: the model came without one");
  }
  write_tokenizer(model, write, generated, result.notes);
  const Model written = as_written(model, plan, config);
  const std::string digest = weights_digest(written.tensors, write_weights(plan, folder.temporary(), pool, progress));
  write_sidecar(folder.temporary(), written, digest, generated);
  folder.commit();
  return result;
}

}  // namespace miq
