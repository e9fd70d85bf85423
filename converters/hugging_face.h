// Hugging Face model folders: config.json, tokenizer files, safetensors in one file or in shards.
#pragma once

#include <string>

#include "miq/model/model.h"

namespace miq {

bool is_hugging_face_folder(const std::string& path);

// Tensors stay in the mapped files. Throws FormatError; with shards, the index and the files are checked
// both ways: every name in exactly the shard that the index names, every shard's tensor in the index,
// shard names plain base names inside the folder.
Model open_hugging_face_folder(const std::string& path);

}  // namespace miq
