// OPT (Zhang et al. 2022, arXiv:2205.01068), all sizes, plain and sliced by SliceGPT.
#pragma once

#include "miq/model/architecture.h"

namespace miq {

extern const Architecture kOpt;

}  // namespace miq
