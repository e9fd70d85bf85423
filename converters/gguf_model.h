// GGUF files of llama.cpp as models: metadata -> Config, block-quantized tensors -> float32.
#pragma once

#include <string>

#include "miq/model/model.h"

namespace miq {

bool is_gguf(const std::string& path);

// Every tensor is decoded to float32 in memory (4 bytes a weight); names and row order become Hugging
// Face's: llama.cpp stores the rows of q and k for interleaved rotation.
// Throws FormatError for architectures and rope variants that are not supported, by name.
Model open_gguf_model(const std::string& path);

}  // namespace miq
