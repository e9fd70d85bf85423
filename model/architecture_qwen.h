// The row of the first Qwen: fused q, k and v with a bias, its own names and keys.
#pragma once

#include "miq/model/architecture.h"

namespace miq {

extern const Architecture kQwen;

}  // namespace miq
