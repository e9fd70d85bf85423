// Only weight_map is read: what else stands in an index says nothing that the shards do not say themselves.
#include "miq/converters/weight_index.h"

#include "miq/base/error.h"
#include "miq/formats/json.h"

namespace miq {
namespace {

constexpr std::string_view kFetch = "Download the checkpoint again, whole";

void check_shard_name(const std::string& shard, std::string_view ending, const std::string& path) {
  const bool plain = !shard.empty() && shard.find_first_of("/\\:") == std::string::npos && shard.find('\0') == std::string::npos && shard[0] != '.' &&
                     shard.ends_with(ending);
  if (!plain) {
    throw FormatError(path, "shard name " + Json(shard).dump(-1, ' ', false, Json::error_handler_t::replace) + " is not the plain name of a " + std::string(ending) + " file",
                      "Refused: it could point outside the folder");
  }
}

}  // namespace

std::map<std::string, std::set<std::string>> read_weight_index(std::string_view text, const std::string& path, std::string_view ending) {
  const Json index = parse_json(text, path);
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) throw FormatError(path, "key 'weight_map' is missing", kFetch);
  if (map->empty()) throw FormatError(path, "names no tensor", kFetch);
  std::map<std::string, std::set<std::string>> names_of_shard;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string()) throw FormatError(path, "shard of tensor '" + name + "' is not a string", kFetch);
    check_shard_name(shard.get<std::string>(), ending, path);
    names_of_shard[shard.get<std::string>()].insert(name);
  }
  return names_of_shard;
}

}  // namespace miq
