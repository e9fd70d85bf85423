// What the solver itself is told, the same for every layer.
#include "miq/compress/resolve.h"

#include <string>

#include "miq/base/error.h"

namespace miq {
namespace {

constexpr int kRefinePasses = 2;  // of mi and mixed

}  // namespace

void resolve_solver(const CompressOptions& options, Recipe& recipe) {
  if (!(options.damping > 0 && options.damping <= 10)) throw UsageError("--damping must be in (0, 10]; 0.01 is usual");
  recipe.damping = options.damping;
  if (options.refine && (*options.refine < 0 || *options.refine > 100)) throw UsageError("--refine must be 0 to 100 passes");
  if (options.refine.value_or(0) > 0 && recipe.method->solver != Solver::Hessian) {
    throw UsageError("--refine lowers the error that a Hessian measures; method " + std::string(recipe.method->name) + " has none");
  }
  recipe.refine = options.refine.value_or(recipe.method->layout == Layout::Groups ? kRefinePasses : 0);
  recipe.compute = options.compute;
  recipe.seed = options.seed;
}

}  // namespace miq
