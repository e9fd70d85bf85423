// The Mixtral row: Mistral's attention, and in every layer a mixture of experts whose chosen ones' weights sum to one.
#pragma once

#include "miq/model/architecture.h"

namespace miq {

extern const Architecture kMixtral;

}  // namespace miq
