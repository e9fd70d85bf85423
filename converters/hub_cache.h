// Names of the Hugging Face hub ("org/model") as folders of its local cache. Nothing is ever downloaded.
#pragma once

#include <string>

namespace miq {

// `name` itself where it exists as a file or folder. Otherwise, where it looks like a hub name, the snapshot
// that refs/main of CACHE/models--org--model points to, or the only snapshot there is. Throws FormatError:
// what to download, and with which command; what the cache holds where that is ambiguous.
// `cache` is the hub's cache folder (HF_HUB_CACHE; see tools/checkpoint_path.h), possibly absent.
std::string resolve_checkpoint(const std::string& name, const std::string& cache);

}  // namespace miq
