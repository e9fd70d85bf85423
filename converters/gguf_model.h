// GGUF files of llama.cpp as models: metadata -> Config, block-quantized tensors -> float32.
#pragma once

#include <string>

#include "miq/formats/scratch_folder.h"
#include "miq/formats/stored_type.h"
#include "miq/model/model.h"

namespace miq {

bool is_gguf(const std::string& path);

// Block-quantized tensors are decoded to float32 in memory (4 bytes a weight), F32, F16 and BF16 ones stay in
// the mapped file; names and row order become Hugging Face's: llama.cpp stores the rows of q and k for
// interleaved rotation. A file that is one part of several is opened together with the others, which must
// lie beside it.
// Throws FormatError for architectures and rope variants that are not supported, by name.
// Blocks are decoded into `scratch` where that is given, else into memory.
Model open_gguf_model(const std::string& path, const ScratchFolder* scratch = nullptr);

// How the file keeps the tensors that open_gguf_model() decodes, by their names in the Model; `config` is that model's. Empty for what is no
// GGUF file. Throws as that does.
StoredTypes gguf_stored_types(const std::string& path, const Config& config);

}  // namespace miq
