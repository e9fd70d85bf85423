// The Qwen3-MoE row: Qwen3's attention; experts in some layers.
#pragma once

#include "miq/model/architecture.h"

namespace miq {

extern const Architecture kQwen3Moe;

}  // namespace miq
