// Recognises what commonly lies where a model file should be: a Git LFS pointer, a web page, an empty or
// foreign file. Within this room only.
#pragma once

#include <string>

#include "miq/base/blob.h"

namespace miq {

// Throws FormatError saying what the bytes are and what to do, when they are one of the known mistakes;
// returns otherwise. `wanted` is the format expected ("safetensors", "GGUF").
void refuse_wrong_file(Bytes file, const std::string& name, const std::string& wanted);

}  // namespace miq
