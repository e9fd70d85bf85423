// The Qwen3 row: Llama's layers with RMS norms over each head of q and k.
#pragma once

#include "miq/model/architecture.h"

namespace miq {

extern const Architecture kQwen3;

}  // namespace miq
