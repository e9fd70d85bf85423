#include "miq/compress/sweep_cuda.h"

#include <gtest/gtest.h>

#include <cstring>

#include "miq/base/error.h"
#include "tests/compress/solver_inputs.h"

namespace miq {
namespace {

TEST(SweepCuda, SaysWhyItCannotRun) {
  std::string reason;
  const bool available = cuda_sweep_available(&reason);
  EXPECT_EQ(available, reason.empty());
  if (available) return;
  ThreadPool pool(1);
  const at::Tensor hessian = hessian_of(random_inputs(100, 16, 1), pool);
  const auto factor = factor_inverse(hessian, natural_order(16), {}, pool);
  SweepMatrix matrix;
  matrix.weights = random_matrix(4, 16, 1);
  EXPECT_THROW(cuda_sweep({&matrix, 1}, *factor, {}, pool), Error);
}

struct Case {
  const char* name;
  std::int64_t group;  // -1: prune only
  GridTiming timing;
  bool clips;
  Pruning pruning;
  int scale_bits = 0;
};

// Both engines do the same float32 operations on every weight in the same order.
TEST(SweepCuda, EqualsTheCpu) {
  std::string reason;
  if (!cuda_sweep_available(&reason)) GTEST_SKIP() << reason;
  const Pruning none{}, block{Pruning::Kind::Block, 0.4, 0, 0}, original{Pruning::Kind::SparseGpt, 0.5, 0, 0},
      pattern{Pruning::Kind::PatternNM, 0, 2, 4};
  const Case cases[] = {
      {"sparsegpt", -1, GridTiming::Static, false, original}, {"sparsegpt_4bit", 0, GridTiming::Static, false, original},
      {"pattern", 0, GridTiming::Static, false, pattern},     {"row_wise", 0, GridTiming::Static, true, none},
      {"groups", 64, GridTiming::Dynamic, true, none},        {"sparse_groups", 64, GridTiming::Dynamic, true, block},
      {"coded", 64, GridTiming::Dynamic, true, none, 8},      {"coded_rows", 0, GridTiming::Static, true, original, 5},
      {"one_group", 1000, GridTiming::Dynamic, true, block},  {"pattern_groups", 32, GridTiming::Dynamic, false, pattern}};
  ThreadPool pool;
  const std::int64_t cols = 320;
  const at::Tensor hessian = hessian_of(random_inputs(700, cols, 1), pool);
  const auto factor = factor_inverse(hessian, natural_order(cols), {}, pool);
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    std::vector<SweepMatrix> matrices(2);
    for (int i = 0; i < 2; ++i) {
      matrices[i].weights = random_matrix(150 + 70 * i, cols, 5 + i, 0.05f);
      if (c.group >= 0) matrices[i].groups = contiguous_groups(cols, c.group, i ? 3 : 4);
    }
    matrices[1].row_weights.assign(220, 0.5f);
    matrices[1].row_weights[7] = 0;
    SweepOptions options;
    options.pruning = c.pruning;
    options.timing = c.timing;
    options.scale_bits = c.scale_bits;
    if (c.clips) options.clips = solving_clips();
    const auto cpu = sweep(matrices, *factor, options, pool), gpu = cuda_sweep(matrices, *factor, options, pool);
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(gpu[i].packed.codes, cpu[i].packed.codes);
      EXPECT_EQ(gpu[i].packed.scales, cpu[i].packed.scales);
      EXPECT_EQ(gpu[i].packed.zeros, cpu[i].packed.zeros);
      EXPECT_EQ(gpu[i].packed.kept, cpu[i].packed.kept);
      EXPECT_EQ(gpu[i].kept, cpu[i].kept);
      EXPECT_EQ(std::memcmp(gpu[i].values.const_data_ptr(), cpu[i].values.const_data_ptr(), cpu[i].values.nbytes()), 0);
      EXPECT_NEAR(gpu[i].loss, cpu[i].loss, 1e-9 * cpu[i].loss);
      EXPECT_EQ(gpu[i].pruned, cpu[i].pruned);
    }
  }
}

}  // namespace
}  // namespace miq
