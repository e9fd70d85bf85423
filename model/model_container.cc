// Model <-> .miq container. The bytes (sections, checksums, atomic writing) are formats/container.h;
// here is the manifest's meaning: the normalised config and how the weights came to be.
#include <filesystem>

#include "miq/base/error.h"
#include "miq/base/version.h"
#include "miq/formats/container.h"
#include "miq/model/model.h"

namespace miq {
namespace {

constexpr int kManifestVersion = 1;

}  // namespace

void save_model(const Model& model, const std::string& path, ThreadPool* given_pool, std::string digest) {
  validate(model);
  std::optional<ThreadPool> own_pool;
  ThreadPool& pool = given_pool ? *given_pool : own_pool.emplace();
  if (digest.empty()) digest = weights_digest(model, pool);
  Container container;
  container.manifest = Json{{"manifest_version", kManifestVersion},
                            {"written_by", std::string("miq ") + version()},
                            {"name", model.name},
                            {"config", model.config.to_json()},
                            {"weights_digest", digest},
                            {"method", model.method},
                            {"statistics", model.statistics},
                            {"calibration", model.calibration},
                            {"source", model.source}}
                           .dump();
  container.files = model.files;
  container.tensors = model.tensors;
  write_container(path, container, &pool);
}

Model load_model(const std::string& path) {
  ThreadPool pool;
  Container container = read_container(path, true, &pool);
  const std::string name = path + " (manifest)";
  const Json manifest = parse_json(container.manifest, name);
  const auto field = [&](const char* key, Json::value_t type) -> const Json& {
    const auto found = manifest.find(key);
    if (found == manifest.end() || found->type() != type) throw FormatError(name, "key '" + std::string(key) + "' is missing or of the wrong kind");
    return *found;
  };
  if (const auto& stated = field("manifest_version", Json::value_t::number_unsigned); stated.get<std::uint64_t>() > kManifestVersion) {
    throw FormatError(name, "manifest version " + stated.dump() + " is newer than this program reads", "Use a newer miq");
  }
  Model model;
  model.name = field("name", Json::value_t::string).get<std::string>();
  model.config = Config::from_json(field("config", Json::value_t::object), name);
  model.method = field("method", Json::value_t::object);
  model.statistics = field("statistics", Json::value_t::object);
  model.calibration = field("calibration", Json::value_t::object);
  model.source = field("source", Json::value_t::object);
  model.files = std::move(container.files);
  model.tensors = std::move(container.tensors);
  model.tokenizer = load_tokenizer(model.files, path);
  validate(model);
  return model;
}

}  // namespace miq
