// Layout of the cache: huggingface_hub file_download.py (models--ORG--NAME/refs/REVISION holds a commit;
// snapshots/COMMIT/ holds links to blobs).
#include "miq/converters/hub_cache.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "miq/base/error.h"
#include "miq/formats/mapped_file.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

// huggingface_hub utils/_validators.py, with an organisation required: a lone word is a mistyped file more
// often than a model.
bool is_hub_name(const std::string& name) {
  const auto slash = name.find('/');
  if (slash == std::string::npos || slash == 0 || slash + 1 == name.size() || name.size() > 96 || name.find('/', slash + 1) != std::string::npos) return false;
  const auto fine = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.' || c == '/'; };
  const auto edge = [](char c) { return c == '-' || c == '.'; };
  return std::ranges::all_of(name, fine) && !edge(name[0]) && !edge(name[slash + 1]) && !edge(name.back()) && name.find("..") == std::string::npos &&
         name.find("--") == std::string::npos;
}

std::string trimmed(std::string text) {
  while (!text.empty() && static_cast<unsigned char>(text.back()) <= ' ') text.pop_back();
  return text;
}

}  // namespace

std::string resolve_checkpoint(const std::string& name, const std::string& cache) {
  std::error_code ignored;
  if (fs::exists(name, ignored)) return name;
  if (!is_hub_name(name)) throw FormatError(name, "no such file or folder");
  const std::string download = "Download it first: hf download " + name;
  std::string folder = name;
  folder.replace(folder.find('/'), 1, "--");
  const fs::path repository = fs::path(cache) / ("models--" + folder);
  if (cache.empty() || !fs::is_directory(repository, ignored)) {
    throw FormatError(name, "no such file or folder, and no model of that name in the local Hugging Face cache (" + (cache.empty() ? std::string("none") : cache) + ")", download);
  }
  if (const fs::path main = repository / "refs" / "main"; fs::is_regular_file(main, ignored)) {
    const std::string commit = trimmed(read_text_file(main.string(), 4096));
    const fs::path snapshot = repository / "snapshots" / commit;
    if (!commit.empty() && commit.find('/') == std::string::npos && commit[0] != '.' && fs::is_directory(snapshot, ignored)) return snapshot.string();
  }
  std::vector<fs::path> snapshots;
  for (const auto& entry : fs::directory_iterator(repository / "snapshots", ignored)) snapshots.push_back(entry.path());
  if (snapshots.size() == 1) return snapshots.front().string();
  if (snapshots.empty()) throw FormatError(name, "the local Hugging Face cache knows the model but holds no snapshot of it", download);
  throw FormatError(name, "the local Hugging Face cache holds " + std::to_string(snapshots.size()) + " snapshots of it and none is marked as main",
                    "Give the folder of one of them, in " + (repository / "snapshots").string());
}

}  // namespace miq
