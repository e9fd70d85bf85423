// A folder is read in the order config, tokenizer, weights, so that what is cheap to refuse is refused
// before anything large is mapped.
#include "miq/converters/hugging_face.h"

#include <filesystem>

#include "miq/base/error.h"
#include "miq/converters/assemble.h"
#include "miq/converters/byte_level_json.h"
#include "miq/converters/weight_files.h"
#include "miq/formats/mapped_file.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

// The hub's cache keeps a model at models--ORG--NAME/snapshots/COMMIT: COMMIT is no name for people.
std::string name_of(const fs::path& folder) {
  const fs::path whole = fs::weakly_canonical(folder);
  const std::string repository = whole.parent_path().parent_path().filename().string();
  if (whole.parent_path().filename() != "snapshots" || !repository.starts_with("models--")) return whole.filename().string();
  return repository.substr(repository.rfind("--") + 2);
}

void read_if_there(const fs::path& folder, std::string_view name, std::map<std::string, Blob>& files) {
  const fs::path file = folder / name;
  if (fs::is_regular_file(file)) files[std::string(name)] = Blob(read_text_file(file.string()));
}

}  // namespace

std::map<std::string, Blob> read_model_files(const std::string& path) {
  const fs::path folder(path);
  std::map<std::string, Blob> files;
  for (std::string_view name : model_file_names()) read_if_there(folder, name, files);
  if (files.contains("tokenizer.json") || files.contains("tokenizer.model") || files.contains("tokenizer.gguf.json")) return files;
  std::map<std::string, Blob> with_tables = files;
  read_if_there(folder, "vocab.json", with_tables);
  read_if_there(folder, "merges.txt", with_tables);
  if (const std::string made = tokenizer_json_from_bpe_files(with_tables, path); !made.empty()) files["tokenizer.json"] = Blob(std::string_view(made));
  return files;
}

bool is_hugging_face_folder(const std::string& path) { return fs::is_directory(path) && fs::exists(fs::path(path) / "config.json"); }

Model open_hugging_face_folder(const std::string& path) {
  CheckpointParts parts;
  parts.where = path;
  parts.name = name_of(path);
  parts.config_where = (fs::path(path) / "config.json").string();
  parts.config = parse_json(read_text_file(parts.config_where), parts.config_where);
  config_from_hugging_face(parts.config, parts.config_where);  // refuses before anything large is mapped
  parts.files = read_model_files(path);
  parts.tensors = read_weight_files(path);
  parts.source = {{"format", "hugging_face"}};
  return assemble_model(std::move(parts));
}

}  // namespace miq
