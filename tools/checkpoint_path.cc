// The environment is read here, in the tools, and handed to the library.
#include "miq/tools/checkpoint_path.h"

#include <cstdlib>

#include "miq/converters/hub_cache.h"

namespace miq {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::string hub_cache() {
  if (const std::string cache = variable("HF_HUB_CACHE"); !cache.empty()) return cache;
  if (const std::string home = variable("HF_HOME"); !home.empty()) return home + "/hub";
  if (const std::string cache = variable("XDG_CACHE_HOME"); !cache.empty()) return cache + "/huggingface/hub";
  const std::string home = variable("HOME");
  return home.empty() ? "" : home + "/.cache/huggingface/hub";
}

}  // namespace

std::string checkpoint_path(const std::string& given) { return resolve_checkpoint(given, hub_cache()); }

}  // namespace miq
