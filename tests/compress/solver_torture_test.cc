// Layers that break solvers: rank-deficient and duplicate inputs, dead and constant channels, hardly any tokens,
// weights and inputs of extreme size. What comes out must be finite, obey the mask's count, and be no worse than
// rounding to nearest on the inputs that it was calibrated with.
#include <gtest/gtest.h>

#include <cmath>

#include "miq/compress/sweep.h"
#include "tests/compress/solver_inputs.h"

namespace miq {
namespace {

at::Tensor inputs_of(int kind, std::int64_t cols) {
  at::Tensor inputs = random_inputs(kind == 1 ? 3 : 200, cols, 40 + kind);
  float* x = inputs.mutable_data_ptr<float>();
  const std::int64_t tokens = inputs.size(0);
  for (std::int64_t t = 0; t < tokens; ++t) {
    float* row = x + t * cols;
    for (std::int64_t j = 0; j < cols; ++j) {
      if (kind == 2) row[j] = row[j % 3];                                        // rank 3, all columns copies of each other
      if (kind == 3 && j % 4 == 0) row[j] = 0;                                   // a quarter dead
      if (kind == 4) row[j] = 1;                                                 // constant
      if (kind == 5 && j == 7) row[j] *= 1e6f;                                   // one massive channel
      if (kind == 6 && t > 0) row[j] = x[j];                                     // one token, many times
      if (kind == 7) row[j] *= std::pow(10.0f, static_cast<float>(j % 13) - 6);  // channels 12 decades apart
    }
  }
  return inputs;
}

TEST(SolverTorture, StaysFiniteAndBeatsRounding) {
  ThreadPool pool(2);
  const std::int64_t rows = 40, cols = 64;
  for (int kind = 0; kind < 8; ++kind) {
    for (float weight_unit : {1e-30f, 1e-12f, 1e-3f, 1.0f, 1e12f, 1e30f}) {
      for (float input_unit : {1e-15f, 1.0f, 1e9f}) {
        SCOPED_TRACE(testing::Message() << "kind " << kind << " weights " << weight_unit << " inputs " << input_unit);
        const at::Tensor hessian = hessian_of(inputs_of(kind, cols).mul_(input_unit), pool);
        const auto factor = factor_inverse(hessian, order_by_diagonal(hessian), {}, pool);
        ASSERT_TRUE(factor);
        EXPECT_EQ(factor->damping, 0.01);
        for (const bool prune : {false, true}) {
          SweepMatrix matrix;
          matrix.weights = random_matrix(rows, cols, 9, weight_unit);
          matrix.groups = contiguous_groups(cols, 0, 4);
          SweepOptions options;
          options.timing = GridTiming::Dynamic;
          options.clips = solving_clips();
          if (prune) options.pruning = {Pruning::Kind::Block, 0.5, 0, 0};
          const SweepResult got = sweep({&matrix, 1}, *factor, options, pool)[0];
          const float* values = got.values.const_data_ptr<float>();
          for (std::int64_t i = 0; i < rows * cols; ++i) ASSERT_TRUE(std::isfinite(values[i]));
          EXPECT_EQ(got.pruned, prune ? rows * cols / 2 : 0);
          if (weight_unit < 1e-25f || weight_unit > 1e25f || (weight_unit * input_unit < 1e-20f) || weight_unit * input_unit > 1e18f)
            continue;  // squared errors leave float32
          const at::Tensor rounded = decode_matrix(round_to_nearest(matrix.weights, matrix.groups, got.packed.kept, {}, pool), pool);
          EXPECT_LE(output_error(matrix.weights, got.values, hessian, pool), 1.001 * output_error(matrix.weights, rounded, hessian, pool));
        }
      }
    }
  }
}

}  // namespace
}  // namespace miq
