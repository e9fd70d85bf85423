// The Mistral row: Llama's layers with a sliding window of attention.
#pragma once

#include "miq/model/architecture.h"

namespace miq {

extern const Architecture kMistral;

}  // namespace miq
