// What inspect-checkpoint says about files as files: what a pickle names, and the contents of files that are no
// model. Nothing in them is executed.
#pragma once

#include <string>

#include "miq/formats/json.h"

namespace miq {

// For each PyTorch file at `path` (itself, or the weight files of a folder without safetensors):
//   {"file", "container": "zip" | "legacy" | "pickle", "storages", "storage_bytes",
//    "globals": [{"name", "risk": "harmless" | "runs code" | "dangerous", "named", "called", "instantiated", "offset"}, …],
//    "would_run_code": globals with a risk, "indirect_calls"}, or {"file", "error"}
// An empty list where there is none.
Json pickle_facts(const std::string& path);
std::string pickle_text(const Json& facts);

// A file that is no model, by its own structure:
//   {"kind", "tensors": [{"name", "dtype", "shape", "bytes"}, …], "metadata": {…}}       safetensors, GGUF
//   {"kind", "contents": the pickle's objects as JSON, a few levels deep}                 PyTorch files
// null where the content is none of these. Throws FormatError for files of these kinds that are damaged.
Json file_listing(const std::string& path);
std::string listing_text(const Json& listing, bool all_tensors);

}  // namespace miq
