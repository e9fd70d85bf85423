// The driver of methods that change a model's sizes: slicegpt (slice.h) and structured (structure.h).
#pragma once

#include "miq/compress/compress.h"

namespace miq {

// REQUIRES: reshapes(*recipe.method).
CompressResult reshape_model(const Model& model, const Calibration& calibration, const Recipe& recipe, ThreadPool& pool,
                             const ProgressFunction& progress, const MessageFunction& message);

}  // namespace miq
