// The Llama row: Llama 1 to 3, Vicuna, Yi, SmolLM and others that publish themselves as "llama".
#pragma once

#include "miq/model/architecture.h"

namespace miq {

// Pre-norm decoder: RMS norms, rotary positions (half rotation), grouped-query attention without
// biases, gated SiLU MLP, tied or own head. Names as in Hugging Face checkpoints.
extern const Architecture kLlama;

}  // namespace miq
