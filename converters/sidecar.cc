// The manifest's parts are those of a model's container (model/model_container.cc) beside the names of the
// encodings and digests of the small files.
#include "miq/converters/sidecar.h"

#include <algorithm>
#include <filesystem>

#include "miq/base/error.h"
#include "miq/formats/container.h"
#include "miq/formats/digest.h"
#include "miq/formats/mapped_file.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

constexpr int kSidecarVersion = 1;

const Json& object(const Json& manifest, const char* key) {
  const auto found = manifest.find(key);
  if (found == manifest.end() || !found->is_object()) throw Error("its manifest has no object '" + std::string(key) + "'");
  return *found;
}

std::string text(const Json& manifest, const char* key) {
  const auto found = manifest.find(key);
  if (found == manifest.end() || !found->is_string()) throw Error("its manifest has no text '" + std::string(key) + "'");
  return found->get<std::string>();
}

// The tensors in their former encodings. Throws Error where the folder's floats do not bear them out.
std::map<std::string, Tensor> encoded_tensors(const Model& model, const Container& sidecar, const Json& encodings, ThreadPool& pool) {
  std::map<std::string, Tensor> tensors = model.tensors;
  struct Job {
    const std::string* name;
    Tensor* tensor;
    std::string encoding;
  };
  std::vector<Job> jobs;
  for (const auto& [name, encoding] : encodings.items()) {
    const auto found = tensors.find(name);
    if (found == tensors.end() || !encoding.is_string()) throw Error("it describes a tensor '" + name + "' that the folder does not hold");
    jobs.push_back({&found->first, &found->second, encoding.get<std::string>()});
  }
  pool.for_each(static_cast<std::int64_t>(jobs.size()), [&](std::int64_t i) {
    const Job& job = jobs[static_cast<std::size_t>(i)];
    if (job.encoding == encoding_name(Encoding::Bitmask)) {
      *job.tensor = encode_bitmask(*job.tensor);
    } else if (job.encoding == encoding_name(Encoding::Zstd)) {
      *job.tensor = encode_zstd(*job.tensor);
    } else {
      const auto stored = sidecar.tensors.find(*job.name);
      if (stored == sidecar.tensors.end()) throw Error("tensor '" + *job.name + "' is not in it");
      const Tensor& packed = stored->second;
      const bool same = packed.dtype == job.tensor->dtype && packed.shape == job.tensor->shape &&
                        std::ranges::equal(decode(packed, *job.name).bytes(), decode(*job.tensor, *job.name).bytes());
      if (!same) throw Error("tensor '" + *job.name + "' decodes to other values than the folder's");
      *job.tensor = packed;
    }
  });
  return tensors;
}

// The model's own files: those listed that are unchanged, those listed that were edited since, and files
// that came in later. Files made for the folder alone go.
std::map<std::string, Blob> own_files(const Model& model, const std::string& folder, const Json& manifest) {
  std::map<std::string, Blob> files = model.files;
  for (const auto& [name, digest] : object(manifest, "generated").items()) {
    const auto found = files.find(name);
    if (found != files.end() && digest == digest_of(found->second.bytes())) files.erase(found);
  }
  for (const auto& [name, digest] : object(manifest, "files").items()) {
    const fs::path path = fs::path(folder) / fs::path(name).filename();  // names of containers are base names
    if (!files.contains(name) && fs::is_regular_file(path)) files[name] = Blob(read_text_file(path.string()));
  }
  return files;
}

}  // namespace

void write_sidecar(const std::string& folder, const Model& model, const std::string& digest, const std::set<std::string>& generated) {
  Container container;
  Json encodings = Json::object(), files = Json::object(), made = Json::object();
  for (const auto& [name, tensor] : model.tensors) {
    if (tensor.encoding == Encoding::Dense) continue;
    encodings[name] = encoding_name(tensor.encoding);
    const bool made_again = tensor.encoding == Encoding::Bitmask || tensor.encoding == Encoding::Zstd;
    if (!made_again) container.tensors.emplace(name, tensor);
  }
  for (const auto& [name, blob] : model.files) files[name] = digest_of(blob.bytes());
  for (const std::string& name : generated) made[name] = digest_of(map_file((fs::path(folder) / name).string()).bytes());
  container.manifest = Json{{"sidecar_version", kSidecarVersion},
                            {"name", model.name},
                            {"config", model.config.to_json()},
                            {"weights_digest", digest},
                            {"method", model.method},
                            {"statistics", model.statistics},
                            {"calibration", model.calibration},
                            {"source", model.source},
                            {"encodings", std::move(encodings)},
                            {"files", std::move(files)},
                            {"generated", std::move(made)}}
                           .dump();
  write_container((fs::path(folder) / kSidecarName).string(), container);
}

Restored restore_from_sidecar(Model& model, const std::string& folder, ThreadPool& pool) {
  const std::string path = (fs::path(folder) / kSidecarName).string();
  if (!fs::is_regular_file(path)) return {};
  try {
    const Container sidecar = read_container(path);
    const Json manifest = parse_json(sidecar.manifest, path + " (manifest)");
    if (!manifest.is_object() || manifest.value("sidecar_version", Json()) != kSidecarVersion) throw Error("it is of another version");
    if (object(manifest, "config") != model.config.to_json()) throw Error("config.json describes another model");
    if (text(manifest, "weights_digest") != weights_digest(model, pool)) throw Error("the weights are not those that it was written with");
    Model restored = model;
    restored.tensors = encoded_tensors(model, sidecar, object(manifest, "encodings"), pool);
    restored.files = own_files(model, folder, manifest);
    restored.tokenizer = load_tokenizer(restored.files, folder);
    restored.name = text(manifest, "name");
    restored.method = object(manifest, "method");
    restored.statistics = object(manifest, "statistics");
    restored.calibration = object(manifest, "calibration");
    restored.source = object(manifest, "source");
    validate(restored);
    model = std::move(restored);
    return {true, {}};
  } catch (const Error& error) {
    return {false, std::string(kSidecarName) + " is not believed: " + error.what()};
  }
}

}  // namespace miq
