// Metadata of a GGUF file -> Config, for the architectures of llama.cpp that are among ours.
#pragma once

#include <string>

#include "miq/formats/gguf.h"
#include "miq/model/config.h"

namespace miq {

// Throws FormatError naming `path` and the key: other architectures, rope variants that are not supported,
// sizes that contradict each other. Which layers have experts, their number and widths follow from the
// tensors. `file` is the whole model: all parts of a split one.
Config gguf_config(const GgufFile& file, const std::string& path);

// llama.cpp's "llama" models store the rows of q and k for interleaved rotation; the others do not.
bool gguf_interleaves_rotary_rows(const GgufFile& file);

}  // namespace miq
