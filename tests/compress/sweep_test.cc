#include "miq/compress/sweep.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "miq/base/error.h"
#include "tests/compress/solver_inputs.h"
#include "tests/reference/sweep_reference.h"

namespace miq {
namespace {

struct Case {
  const char* name;
  std::int64_t rows, cols;
  bool sorted;         // columns by falling diagonal
  std::int64_t group;  // columns of a group in sweep order; 0: one group; -1: no quantization; -2: three levels anywhere
  GridTiming timing;
  bool clips;
  Pruning pruning;
  bool row_weights;
  DeadColumns dead;
  int scale_bits = 0;
};

void PrintTo(const Case& value, std::ostream* out) { *out << value.name; }

class SweepModes : public testing::TestWithParam<Case> {
 protected:
  ThreadPool pool_{2};
  SweepMatrix matrix_;
  SweepOptions options_;
  std::optional<InverseFactor> factor_;

  void SetUp() override {
    const Case& c = GetParam();
    at::Tensor inputs = random_inputs(300, c.cols, 7);
    for (std::int64_t t = 0; t < 300; ++t) inputs.mutable_data_ptr<float>()[t * c.cols + 5] = 0;  // column 5 is dead
    const at::Tensor hessian = hessian_of(inputs, pool_);
    const auto order = c.sorted ? order_by_diagonal(hessian) : natural_order(c.cols);
    factor_ = factor_inverse(hessian, order, {0.01, c.dead}, pool_);
    ASSERT_TRUE(factor_);
    EXPECT_EQ(factor_->dead_count(), 1);
    matrix_.weights = random_matrix(c.rows, c.cols, 3, 0.05f);
    if (c.group >= -2 && c.group != -1) {
      const int widths[] = {2, 3, 4, 6, 8};
      std::int64_t groups = c.group == 0 ? 1 : c.group == -2 ? 3 : (c.cols + c.group - 1) / c.group;
      for (std::int64_t g = 0; g < groups; ++g) matrix_.groups.bits_of_group.push_back(static_cast<std::uint8_t>(widths[(g + 2) % 5]));
      matrix_.groups.group_of_column.resize(c.cols);
      for (std::int64_t k = 0; k < c.cols; ++k) {
        matrix_.groups.group_of_column[order[k]] = static_cast<std::uint16_t>(c.group == 0 ? 0 : c.group == -2 ? k * 7 % 3 : k / c.group);
      }
    }
    if (c.row_weights)
      for (std::int64_t r = 0; r < c.rows; ++r) matrix_.row_weights.push_back(0.1f + static_cast<float>(r % 7));
    options_.pruning = c.pruning;
    options_.timing = c.timing;
    if (c.clips) options_.clips = solving_clips();
    options_.block_columns = 32;
    options_.scale_bits = c.scale_bits;
    if (c.pruning.kind == Pruning::Kind::Given) {
      for (std::int64_t i = 0; i < c.rows * c.cols; ++i) matrix_.kept.push_back(i * 7919 % 11 > 4);
    }
    if (c.pruning.kind == Pruning::Kind::Block) {
      const auto blocks = sweep_blocks(matrix_.groups, order, c.timing, 32);
      for (std::size_t b = 0; b + 1 < blocks.size(); ++b)
        matrix_.pruned_of_block.push_back(
            static_cast<std::int64_t>(c.rows * (blocks[b + 1] - blocks[b]) * (0.2 + 0.1 * static_cast<double>(b % 5))));
    }
  }

  reference::SweepOutcome expected(bool half) {
    const Case& c = GetParam();
    const std::int64_t n = c.cols;
    reference::SweepSettings s;
    s.blocks = sweep_blocks(matrix_.groups, factor_->order, options_.timing, options_.block_columns);
    for (std::int64_t k = 0; k < n && matrix_.groups.groups(); ++k) s.group_of.push_back(matrix_.groups.group_of_column[factor_->order[k]]);
    s.bits.assign(matrix_.groups.bits_of_group.begin(), matrix_.groups.bits_of_group.end());
    if (c.clips) s.clips.assign(options_.clips.begin(), options_.clips.end());
    s.dynamic = c.timing == GridTiming::Dynamic;
    s.half = half;
    s.scale_bits = c.scale_bits;
    s.pruned = matrix_.pruned_of_block;
    s.original_rule = c.pruning.kind == Pruning::Kind::SparseGpt;
    if (s.original_rule)
      for (std::size_t b = 0; b + 1 < s.blocks.size(); ++b)
        s.pruned.push_back(static_cast<std::int64_t>(static_cast<double>(c.rows * (s.blocks[b + 1] - s.blocks[b])) * c.pruning.sparsity));
    if (c.pruning.kind == Pruning::Kind::Given) {
      s.kept.assign(c.rows, std::vector<bool>(n));
      for (std::int64_t r = 0; r < c.rows; ++r) {
        for (std::int64_t k = 0; k < n; ++k) s.kept[r][k] = matrix_.kept[r * n + factor_->order[k]];
      }
    }
    s.n = c.pruning.n;
    s.m = c.pruning.m;
    s.row_weights = matrix_.row_weights.empty() ? std::vector<float>(c.rows, 1) : matrix_.row_weights;
    if (c.dead == DeadColumns::Zero)
      for (std::int64_t k = 0; k < n; ++k) s.zero_columns.push_back(factor_->dead[factor_->order[k]]);
    reference::Matrix w(c.rows, std::vector<float>(n)), upper(n, std::vector<float>(n));
    const float* data = matrix_.weights.const_data_ptr<float>();
    const float* u = factor_->upper.const_data_ptr<float>();
    for (std::int64_t r = 0; r < c.rows; ++r)
      for (std::int64_t k = 0; k < n; ++k) w[r][k] = data[r * n + factor_->order[k]];
    for (std::int64_t k = 0; k < n; ++k) upper[k].assign(u + k * n, u + (k + 1) * n);
    return reference::sweep(std::move(w), upper, s);
  }
};

// The engine does the same float32 operations in the same order as the reference, so results are equal, not just close.
TEST_P(SweepModes, EqualsTheReference) {
  const Case& c = GetParam();
  const SweepResult got = sweep({&matrix_, 1}, *factor_, options_, pool_)[0];
  const auto want = expected(matrix_.groups.groups() && got.packed.scale_dtype == DType::F16);
  const float* values = got.values.const_data_ptr<float>();
  std::int64_t different = 0, pruned = 0;
  for (std::int64_t r = 0; r < c.rows; ++r) {
    for (std::int64_t k = 0; k < c.cols; ++k) {
      different += values[r * c.cols + factor_->order[k]] != want.values[r][k];
      pruned += !want.kept[r][k];
      if (c.pruning.kind != Pruning::Kind::None) {
        const auto& kept = matrix_.groups.groups() ? got.packed.kept : got.kept;
        different += kept[r * c.cols + factor_->order[k]] != want.kept[r][k];
      }
    }
  }
  EXPECT_EQ(different, 0);
  EXPECT_EQ(got.pruned, pruned);
  EXPECT_NEAR(got.loss / factor_->scale, want.loss, 1e-4 * want.loss);
}

TEST_P(SweepModes, SameBytesForAnyNumberOfThreads) {
  // Two matrices in one call, as q, k and v are solved.
  const SweepMatrix matrices[] = {matrix_, matrix_};
  std::vector<SweepResult> first;
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    auto results = sweep(matrices, *factor_, options_, pool);
    if (first.empty()) first = results;
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(std::memcmp(results[i].values.const_data_ptr(), first[0].values.const_data_ptr(), results[i].values.nbytes()), 0);
      EXPECT_EQ(results[i].packed.codes, first[0].packed.codes);
      EXPECT_EQ(results[i].packed.scales, first[0].packed.scales);
      EXPECT_EQ(results[i].kept, first[0].kept);
      EXPECT_EQ(results[i].loss, first[0].loss);
    }
  }
}

TEST_P(SweepModes, StoresWhatItOptimised) {
  const Case& c = GetParam();
  const SweepResult got = sweep({&matrix_, 1}, *factor_, options_, pool_)[0];
  if (matrix_.groups.groups()) {
    const at::Tensor decoded = decode_matrix(got.packed, pool_);
    EXPECT_EQ(std::memcmp(decoded.const_data_ptr(), got.values.const_data_ptr(), decoded.nbytes()), 0);
    for (std::int64_t i = 0; i < c.rows * c.cols; ++i)
      EXPECT_LT(got.packed.codes[i], 1 << got.packed.bits_of_group[got.packed.group_of_column[i % c.cols]]);
    for (std::int64_t g = 0; g < got.packed.groups(); ++g) {
      for (std::int64_t r = 0; r < c.rows; ++r) {
        EXPECT_LT(got.packed.zeros[g * c.rows + r], 1 << got.packed.bits_of_group[g]);
        EXPECT_EQ(got.packed.scale_dtype, c.scale_bits ? DType::F32 : DType::F16);
        EXPECT_EQ(got.packed.scale_bits, c.scale_bits);
        if (!c.scale_bits) {
          EXPECT_EQ(f16_to_f32(f32_to_f16(got.packed.scales[g * c.rows + r])), got.packed.scales[g * c.rows + r]);
        }
      }
    }
    pack(got.packed);  // throws when a rule of the packed form is broken
  }
  const auto& kept = matrix_.groups.groups() ? got.packed.kept : got.kept;
  std::int64_t zeros = 0;
  for (std::uint8_t value : kept) zeros += value == 0;
  EXPECT_EQ(zeros, got.pruned);
  switch (c.pruning.kind) {
    case Pruning::Kind::None:
      EXPECT_TRUE(kept.empty());
      break;
    case Pruning::Kind::Given:
      EXPECT_EQ(kept, matrix_.kept);
      break;
    case Pruning::Kind::Block:
      EXPECT_EQ(got.pruned, std::accumulate(matrix_.pruned_of_block.begin(), matrix_.pruned_of_block.end(), std::int64_t{0}));
      break;
    case Pruning::Kind::SparseGpt:
      EXPECT_NEAR(static_cast<double>(got.pruned) / (c.rows * c.cols), c.pruning.sparsity, 0.02);
      break;
    case Pruning::Kind::PatternNM:
      for (std::int64_t set = 0; set + c.pruning.m <= c.cols; set += c.pruning.m) {
        for (std::int64_t r = 0; r < c.rows; ++r) {
          int gone = 0;
          for (int i = 0; i < c.pruning.m; ++i) gone += kept[r * c.cols + set + i] == 0;
          EXPECT_EQ(gone, c.pruning.n);
        }
      }
  }
}

// tr(D H D^T) of the sweep against rounding to nearest (or masking) without compensation.
TEST_P(SweepModes, BeatsRoundingToNearest) {
  const Case& c = GetParam();
  const SweepResult got = sweep({&matrix_, 1}, *factor_, options_, pool_)[0];
  at::Tensor inputs = random_inputs(300, c.cols, 7);
  for (std::int64_t t = 0; t < 300; ++t) inputs.mutable_data_ptr<float>()[t * c.cols + 5] = 0;
  const at::Tensor hessian = hessian_of(inputs, pool_);
  std::vector<std::uint8_t> kept = matrix_.groups.groups() ? got.packed.kept : got.kept;
  at::Tensor plain;
  if (matrix_.groups.groups()) {
    RoundingOptions rounding;
    rounding.clips = options_.clips;
    plain = decode_matrix(round_to_nearest(matrix_.weights, matrix_.groups, kept, rounding, pool_), pool_);
  } else {
    plain = matrix_.weights.clone();
    for (std::int64_t i = 0; i < c.rows * c.cols; ++i)
      if (!kept[i]) plain.mutable_data_ptr<float>()[i] = 0;
  }
  const double solved = output_error(matrix_.weights, got.values, hessian, pool_),
               rounded = output_error(matrix_.weights, plain, hessian, pool_);
  EXPECT_LT(solved, rounded);
  double squares = 0;  // the loss is that of the damped Hessian
  for (std::int64_t i = 0; i < c.rows * c.cols; ++i) {
    if (c.dead == DeadColumns::Zero && factor_->dead[i % c.cols]) continue;
    squares += std::pow(static_cast<double>(matrix_.weights.const_data_ptr<float>()[i]) - got.values.const_data_ptr<float>()[i], 2);
  }
  const double damped = solved + factor_->damping * factor_->scale * squares;
  EXPECT_NEAR(2 * got.loss, damped, 1e-3 * damped);
}

constexpr Pruning kNone{}, kBlock{Pruning::Kind::Block, 0.5, 0, 0}, kOriginal{Pruning::Kind::SparseGpt, 0.5, 0, 0},
    k2of4{Pruning::Kind::PatternNM, 0, 2, 4}, kGiven{Pruning::Kind::Given, 0, 0, 0};
INSTANTIATE_TEST_SUITE_P(
    All, SweepModes,
    testing::Values(Case{"sparsegpt", 70, 100, false, -1, GridTiming::Static, false, kOriginal, false, DeadColumns::Zero},
                    Case{"sparsegpt_4bit", 70, 100, false, 0, GridTiming::Static, false, kOriginal, false, DeadColumns::Zero},
                    Case{"row_wise", 130, 96, false, 0, GridTiming::Static, false, kNone, false, DeadColumns::Zero},
                    Case{"pattern", 70, 100, false, -1, GridTiming::Static, false, k2of4, false, DeadColumns::Zero},
                    Case{"pattern_4bit", 64, 96, false, 0, GridTiming::Static, false, k2of4, false, DeadColumns::Keep},
                    Case{"enhanced", 70, 100, true, -2, GridTiming::Static, true, kNone, false, DeadColumns::Keep},
                    Case{"enhanced_sparse", 70, 100, false, -2, GridTiming::Static, false, kOriginal, false, DeadColumns::Keep},
                    Case{"enhanced_given", 70, 100, true, -2, GridTiming::Static, true, kGiven, false, DeadColumns::Keep},
                    Case{"mixed_given", 70, 100, true, 16, GridTiming::Dynamic, true, kGiven, false, DeadColumns::Keep},
                    Case{"mixed", 70, 100, true, 16, GridTiming::Dynamic, true, kNone, false, DeadColumns::Keep},
                    Case{"mixed_sparse", 70, 100, true, 16, GridTiming::Dynamic, true, kBlock, true, DeadColumns::Keep},
                    Case{"uneven_groups", 5, 100, true, 23, GridTiming::Dynamic, false, kBlock, false, DeadColumns::Keep},
                    Case{"pattern_groups", 70, 96, false, 16, GridTiming::Dynamic, true, k2of4, false, DeadColumns::Keep},
                    Case{"coded_row_wise", 70, 96, false, 0, GridTiming::Static, false, kNone, false, DeadColumns::Zero, 8},
                    Case{"coded_enhanced", 70, 100, true, -2, GridTiming::Static, true, kNone, false, DeadColumns::Keep, 8},
                    Case{"coded_mixed", 70, 100, true, 16, GridTiming::Dynamic, true, kNone, false, DeadColumns::Keep, 8},
                    Case{"coded_mixed_short", 70, 100, true, 16, GridTiming::Dynamic, true, kNone, false, DeadColumns::Keep, 5},
                    Case{"coded_mixed_sparse", 70, 100, true, 16, GridTiming::Dynamic, true, kBlock, true, DeadColumns::Keep, 6},
                    Case{"coded_uneven_groups", 5, 100, true, 23, GridTiming::Dynamic, false, kBlock, false, DeadColumns::Keep, 8},
                    Case{"prune_sorted", 200, 33, true, -1, GridTiming::Static, false, kBlock, true, DeadColumns::Keep}),
    [](const auto& parameter) { return std::string(parameter.param.name); });

TEST(Sweep, PrunesExactlyAsManyAsAskedWhenScoresAreEqual) {
  ThreadPool pool(2);
  const at::Tensor hessian = hessian_of(random_inputs(100, 32, 1), pool);
  const auto factor = factor_inverse(hessian, natural_order(32), {}, pool);
  SweepMatrix matrix;
  matrix.weights = random_matrix(100, 32, 1);
  matrix.row_weights.assign(100, 0.0f);  // all scores are 0
  SweepOptions options;
  options.pruning = kBlock;
  options.block_columns = 16;
  EXPECT_EQ(sweep({&matrix, 1}, *factor, options, pool)[0].pruned, 100 * 16);
  options.pruning.sparsity = 0;
  EXPECT_EQ(sweep({&matrix, 1}, *factor, options, pool)[0].pruned, 0);
}

TEST(Sweep, RefusesWhatMakesNoSense) {
  ThreadPool pool(1);
  const at::Tensor hessian = hessian_of(random_inputs(100, 16, 1), pool);
  auto order = natural_order(16);
  const auto factor = factor_inverse(hessian, order, {}, pool);
  SweepMatrix matrix;
  matrix.weights = random_matrix(4, 16, 1);
  SweepOptions options;
  const auto run = [&] { sweep({&matrix, 1}, *factor, options, pool); };
  options.pruning = kBlock;
  options.pruning.sparsity = 1;
  EXPECT_THROW(run(), UsageError);
  options.pruning = {Pruning::Kind::PatternNM, 0, 4, 4};
  EXPECT_THROW(run(), UsageError);
  options.pruning = {};
  matrix.groups = contiguous_groups(16, 4, 4);
  matrix.groups.group_of_column[0] = 3;  // no run any more
  options.timing = GridTiming::Dynamic;
  EXPECT_THROW(run(), UsageError);
  options.timing = GridTiming::Static;
  EXPECT_NO_THROW(run());
  matrix.weights.mutable_data_ptr<float>()[5] = NAN;
  EXPECT_THROW(run(), Error);
  matrix.weights = random_matrix(4, 15, 1);
  EXPECT_THROW(run(), Error);

  std::swap(order[0], order[7]);
  const auto torn = factor_inverse(hessian, order, {}, pool);
  matrix.weights = random_matrix(4, 16, 1);
  matrix.groups = {};
  options.pruning = k2of4;
  EXPECT_THROW(sweep({&matrix, 1}, *torn, options, pool), UsageError);
}

}  // namespace
}  // namespace miq
