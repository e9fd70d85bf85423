// GGUF files of llama.cpp as models: metadata -> Config, tensors under our names, blocks as they are.
#pragma once

#include <string>

#include "miq/formats/scratch_folder.h"
#include "miq/model/model.h"

namespace miq {

bool is_gguf(const std::string& path);

// Tensors stay in the mapped file, block-quantized ones in encoding ggml; names and row order become Hugging Face's: llama.cpp stores the rows of q and k for
// interleaved rotation. A file that is one part of several is opened together with the others, which must
// lie beside it.
// Throws FormatError for architectures and rope variants that are not supported, by name.
// The rows that change places go to `scratch` where that is given, else into memory.
Model open_gguf_model(const std::string& path, const ScratchFolder* scratch = nullptr);

}  // namespace miq
