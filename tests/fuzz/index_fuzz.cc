// model.safetensors.index.json. What is accepted names plain files of the right ending, and each tensor once.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "miq/base/error.h"
#include "miq/converters/weight_index.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto shards = miq::read_weight_index({reinterpret_cast<const char*>(data), size}, "input", ".safetensors");
    if (shards.empty()) std::abort();
    for (const auto& [shard, names] : shards) {
      const bool plain = shard.find_first_of(std::string_view("/\\:\0", 4)) == shard.npos && !shard.starts_with(".") && shard.ends_with(".safetensors");
      if (!plain || names.empty()) std::abort();
    }
  } catch (const miq::FormatError&) {
  }
  return 0;
}
