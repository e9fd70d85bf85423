// The kernels' steps against the CPU's sweep: looped over on the CPU, and on a GPU where there is one.
#include "miq/compress/device_sweep.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/compress/cuda_devices.h"
#include "tests/compress/solver_inputs.h"

namespace miq {
namespace {

struct Case {
  const char* name;
  std::int64_t group;  // -1: prune only
  GridTiming timing;
  bool clips;
  Pruning pruning;
  int scale_bits = 0;
  std::int64_t block_columns = 128;
};

void expect_equal(const SweepResult& device, const SweepResult& cpu) {
  EXPECT_EQ(device.packed.codes, cpu.packed.codes);
  EXPECT_EQ(device.packed.scales, cpu.packed.scales);
  EXPECT_EQ(device.packed.zeros, cpu.packed.zeros);
  EXPECT_EQ(device.packed.kept, cpu.packed.kept);
  EXPECT_EQ(device.packed.row_exponents, cpu.packed.row_exponents);
  EXPECT_EQ(device.kept, cpu.kept);
  EXPECT_EQ(std::memcmp(device.values.const_data_ptr(), cpu.values.const_data_ptr(), cpu.values.nbytes()), 0);
  EXPECT_NEAR(device.loss, cpu.loss, 1e-9 * cpu.loss);
  EXPECT_EQ(device.pruned, cpu.pruned);
}

// Both do the same float32 operations on every weight in the same order.
void expect_same_as_cpu(const ComputeDevice& where) {
  const Pruning none{}, block{Pruning::Kind::Block, 0.4, 0, 0}, original{Pruning::Kind::SparseGpt, 0.5, 0, 0}, pattern{Pruning::Kind::PatternNM, 0, 2, 4};
  const Case cases[] = {{"sparsegpt", -1, GridTiming::Static, false, original},
                        {"sparsegpt_4bit", 0, GridTiming::Static, false, original},
                        {"pattern", 0, GridTiming::Static, false, pattern},
                        {"row_wise", 0, GridTiming::Static, true, none},
                        {"groups", 64, GridTiming::Dynamic, true, none},
                        {"groups_as_blocks", 64, GridTiming::Dynamic, true, block, 6, 1},
                        {"sparse_groups", 64, GridTiming::Dynamic, true, block},
                        {"coded", 64, GridTiming::Dynamic, true, none, 8},
                        {"coded_rows", 0, GridTiming::Static, true, original, 5},
                        {"one_group", 1000, GridTiming::Dynamic, true, block},
                        {"pattern_groups", 32, GridTiming::Dynamic, false, pattern}};
  ThreadPool pool;
  const std::int64_t cols = 320;
  const at::Tensor hessian = hessian_of(random_inputs(700, cols, 1), pool);
  const auto factor = factor_inverse(hessian, natural_order(cols), {}, pool);
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    // More than one launch takes.
    std::vector<SweepMatrix> matrices(c.group == 64 ? 10 : 2);
    for (std::size_t i = 0; i < matrices.size(); ++i) {
      const std::int64_t rows = 150 + 70 * static_cast<std::int64_t>(i % 3);
      matrices[i].weights = random_matrix(rows, cols, 5 + i, 0.05f);
      if (c.group >= 0) matrices[i].groups = contiguous_groups(cols, c.group, i % 3 == 0 ? 4 : i % 3 == 1 ? 3 : 2);
    }
    matrices[1].row_weights.assign(220, 0.5f);
    matrices[1].row_weights[7] = 0;
    SweepOptions options;
    options.pruning = c.pruning;
    options.timing = c.timing;
    options.scale_bits = c.scale_bits;
    options.block_columns = c.block_columns;
    if (c.clips) options.clips = solving_clips();
    const auto cpu = sweep(matrices, *factor, options, pool), device = sweep_on(where, matrices, *factor, options, pool);
    for (std::size_t i = 0; i < matrices.size(); ++i) expect_equal(device[i], cpu[i]);
  }
}

TEST(DeviceSweep, StepsEqualTheCpu) { expect_same_as_cpu(emulated_device()); }

// Many equal weights: which of them go is settled by their place.
void expect_same_ties(const ComputeDevice& where) {
  ThreadPool pool(2);
  const std::int64_t cols = 192;
  const at::Tensor hessian = hessian_of(random_inputs(400, cols, 2), pool);
  const auto factor = factor_inverse(hessian, natural_order(cols), {}, pool);
  SweepMatrix matrix;
  matrix.weights = random_matrix(200, cols, 3).mul(4).round().div(4).contiguous();
  matrix.weights.narrow(0, 20, 100).zero_();
  for (const double sparsity : {0.0, 0.3, 0.9}) {
    for (const auto kind : {Pruning::Kind::Block, Pruning::Kind::SparseGpt}) {
      SweepOptions options;
      options.pruning = {kind, sparsity, 0, 0};
      const auto cpu = sweep({&matrix, 1}, *factor, options, pool), device = sweep_on(where, {&matrix, 1}, *factor, options, pool);
      expect_equal(device[0], cpu[0]);
    }
  }
}

TEST(DeviceSweep, TiesGoByPlace) { expect_same_ties(emulated_device()); }

TEST(DeviceSweep, GpuEqualsTheCpu) {
  std::string why;
  const auto gpu = gpu_device(&why);
  if (!gpu) GTEST_SKIP() << why;
  expect_same_as_cpu(*gpu);
  expect_same_ties(*gpu);
}

}  // namespace
}  // namespace miq
