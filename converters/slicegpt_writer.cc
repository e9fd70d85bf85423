// The folder's config.json is the base model's, unsliced: the loader builds that model, puts rotations into
// its layers, cuts everything to the widths of the json and then takes the state dict.
#include "miq/converters/slicegpt_writer.h"

#include <algorithm>
#include <filesystem>

#include "miq/base/error.h"
#include "miq/converters/sidecar.h"
#include "miq/converters/slicegpt.h"
#include "miq/formats/atomic_file.h"
#include "miq/formats/atomic_folder.h"
#include "miq/formats/cast.h"
#include "miq/formats/digest.h"
#include "miq/formats/torch_writer.h"
#include "miq/model/architecture.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

bool is_replaceable(const std::string& name) {
  return name.ends_with(".pt") || name.ends_with(".json") || name == "merges.txt" || name == kSidecarName ||
         std::ranges::find(model_file_names(), name) != model_file_names().end();
}

std::function<bool(const std::string&)> replaceable(const std::string& path, bool force) {
  if (!force && !fs::is_regular_file(fs::path(path) / kSidecarName)) return {};
  return is_replaceable;
}

// "story_0.25"
std::string pair_name(const Model& model) {
  const Json& ratio =
      model.method.contains("pruning_ratio") ? model.method.at("pruning_ratio") : model.method.value("actual_ratio", Json());
  if (!ratio.is_number()) throw Error(model.name + ": its description states no pruning ratio, which the sliced model's file is named by");
  const std::string base = model.method.value("base_model", model.name);
  const bool plain = !base.empty() && base.find_first_of("/\\:") == std::string::npos && base[0] != '.';
  return (plain ? base : "model") + "_" + ratio.dump();
}

// config.json of the base model. One that came without (from a GGUF file) gets it made from what slicing left of its config.
std::string base_config(const Model& model) {
  const auto found = model.files.find("config.json");
  if (found != model.files.end()) return std::string(found->second.text());
  Config base = model.config;
  base.sliced = base.head_bias = false;
  const bool layer_norms = !global_name(architecture(base.architecture), Role::FinalNorm, true).empty();
  base.norm = layer_norms ? NormKind::Layer : NormKind::Rms;
  for (LayerConfig& layer : base.layers) layer.input = layer.middle = layer.output = 0;
  return hugging_face_config(base).dump(2) + "\n";
}

}  // namespace

void check_slicegpt_folder(const Model& model, const std::string& path, const HuggingFaceOptions& options) {
  pair_name(model);
  base_config(model);
  AtomicFolder{path, replaceable(path, options.force)};
}

HuggingFaceExport write_slicegpt_folder(const Model& model, const std::string& path, const HuggingFaceOptions& options, ThreadPool& pool,
                                        const ProgressFunction& progress) {
  validate(model);
  const std::string name = pair_name(model), config = base_config(model);
  AtomicFolder folder(path, replaceable(path, options.force));
  const auto place = [&](const std::string& file) { return (fs::path(folder.temporary()) / file).string(); };
  for (const auto& [file, content] : model.files) write_file_atomically(place(file), content.text());
  if (!model.files.contains("config.json")) write_file_atomically(place("config.json"), config);
  write_file_atomically(place(name + ".json"), slicing_schedule(model.config).dump(2) + "\n");

  HuggingFaceExport result;
  result.shards = 1;
  Model written = model;
  std::map<std::string, std::string> digests;
  std::vector<SafetensorsItem> items;
  for (const ExpectedTensor& expected : expected_tensors(model.config)) {
    const Tensor& tensor = model.tensors.at(expected.name);
    const DType dtype = options.dtype.value_or(tensor.dtype);
    if (dtype != tensor.dtype) written.tensors[expected.name].encoding = Encoding::Dense;
    written.tensors[expected.name].dtype = dtype;
    result.bytes += tensor_bytes(dtype, tensor.shape).value_or(0);
    items.push_back(
        {{expected.name, dtype, tensor.shape}, [&, dtype, id = expected.name] {
           if (progress) {
             progress({"writing " + name + ".pt", static_cast<double>(digests.size()), static_cast<double>(model.tensors.size())});
           }
           const Tensor& source = model.tensors.at(id);
           const Blob data = cast_elements(decode(source, id, &pool), source.dtype, dtype, "tensor '" + id + "'");
           digests[id] = digest_of(data.bytes());
           return data;
         }});
  }
  result.tensors = items.size();
  write_torch_state_dict(place(name + ".pt"), items);
  result.notes.push_back("a sliced model: " + name + ".pt and " + name +
                         ".json for SliceGPT's load_sliced_model; transformers alone cannot run it");
  write_sidecar(folder.temporary(), written, weights_digest(written.tensors, digests), {});
  folder.commit();
  return result;
}

}  // namespace miq
