// What the solver itself is told, the same for every layer.
#include "miq/compress/resolve.h"


#include "miq/base/error.h"

namespace miq {

void resolve_solver(const CompressOptions& options, Recipe& recipe) {
  if (!(options.damping > 0 && options.damping <= 10)) throw UsageError("--damping must be in (0, 10]; 0.01 is usual");
  recipe.damping = options.damping;
  recipe.compute = options.compute;
  recipe.seed = options.seed;
}

}  // namespace miq
