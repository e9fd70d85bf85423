// The Qwen2 row: Qwen 1.5, 2 and 2.5. Llama's layers with biases on q, k and v, and windows in some layers.
#pragma once

#include "miq/model/architecture.h"

namespace miq {

extern const Architecture kQwen2;

}  // namespace miq
