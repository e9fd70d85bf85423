// The Qwen2-MoE row: Qwen2's attention; experts in some layers, with one more that sees every token.
#pragma once

#include "miq/model/architecture.h"

namespace miq {

extern const Architecture kQwen2Moe;

}  // namespace miq
