// Hugging Face model folders: config.json, tokenizer files, weights in one file or in shards (weight_files.h).
#pragma once

#include <map>
#include <string>

#include "miq/model/model.h"

namespace miq {

bool is_hugging_face_folder(const std::string& path);

// The small files of a model's folder (model_file_names()). Where there is only vocab.json with merges.txt, the
// tokenizer.json that they amount to is among them (byte_level_json.h).
std::map<std::string, Blob> read_model_files(const std::string& path);

// Tensors stay in the mapped files. Throws FormatError.
Model open_hugging_face_folder(const std::string& path);

}  // namespace miq
