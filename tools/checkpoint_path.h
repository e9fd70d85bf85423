// The path or hub name that a user gives for a checkpoint.
#pragma once

#include <string>

namespace miq {

// See converters/hub_cache.h; the cache is $HF_HUB_CACHE, else $HF_HOME/hub, else
// $XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub (huggingface_hub constants.py).
std::string checkpoint_path(const std::string& given);

}  // namespace miq
