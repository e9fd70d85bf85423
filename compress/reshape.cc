// One line for each method.
#include "miq/compress/reshape.h"

#include "miq/compress/slice.h"
#include "miq/compress/structure.h"

namespace miq {

CompressResult reshape_model(const Model& model, const Calibration& calibration, const Recipe& recipe, ThreadPool& pool,
                             const ProgressFunction& progress, const MessageFunction& message) {
  return recipe.method->solver == Solver::Slice ? slice_model(model, calibration, recipe, pool, progress, message)
                                                : structure_model(model, calibration, recipe, pool, progress, message);
}

}  // namespace miq
