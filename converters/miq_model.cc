// Recognised by the start of the safetensors header; load_model does the rest.
#include "miq/converters/miq_model.h"

#include <filesystem>
#include <fstream>
#include <vector>

#include "miq/formats/container.h"

namespace miq {

bool is_miq(const std::string& path) {
  if (!std::filesystem::is_regular_file(path)) return false;
  std::vector<std::uint8_t> start(64 << 10);
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(start.data()), static_cast<std::streamsize>(start.size()));
  start.resize(static_cast<std::size_t>(file.gcount()));
  return looks_like_container(start);
}

}  // namespace miq
