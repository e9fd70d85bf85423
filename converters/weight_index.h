// The index beside sharded weights: model.safetensors.index.json, pytorch_model.bin.index.json.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>

namespace miq {

// The tensors of each shard. Throws FormatError naming `path`: no weight_map, one that is empty, and shards that are not the
// plain name of a file ending in `ending` (nothing that leaves the folder, nothing of another kind).
std::map<std::string, std::set<std::string>> read_weight_index(std::string_view text, const std::string& path, std::string_view ending);

}  // namespace miq
