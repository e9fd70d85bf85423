// Coordinate descent after the sweep, against plain loops in double.
#include "miq/compress/refine.h"

#include <gtest/gtest.h>

#include <cstring>

#include "miq/base/error.h"
#include "tests/compress/cuda_devices.h"
#include "tests/compress/solver_inputs.h"
#include "tests/reference/refine_reference.h"

namespace miq {
namespace {

struct Case {
  const char* name;
  std::int64_t rows, cols, group;  // group: columns; 0: one group; -1: no quantization; -2: three groups, columns anywhere
  double sparsity;
  bool clips;
  int scale_bits = 0;
};

void PrintTo(const Case& value, std::ostream* out) { *out << value.name; }

class RefineModes : public testing::TestWithParam<Case> {
 protected:
  ThreadPool pool_{2};
  at::Tensor hessian_;
  SweepMatrix matrix_;
  SweepResult swept_;
  std::optional<InverseFactor> factor_;

  void SetUp() override {
    const Case& c = GetParam();
    hessian_ = hessian_of(random_inputs(300, c.cols, 7), pool_);
    const auto order = order_by_diagonal(hessian_);
    factor_ = factor_inverse(hessian_, order, {}, pool_);
    matrix_.weights = random_matrix(c.rows, c.cols, 3, 0.05f);
    if (c.group != -1) {
      const int widths[] = {3, 2, 4, 2, 6, 8};
      const std::int64_t groups = c.group == 0 ? 1 : c.group == -2 ? 3 : (c.cols + c.group - 1) / c.group;
      for (std::int64_t g = 0; g < groups; ++g) matrix_.groups.bits_of_group.push_back(static_cast<std::uint8_t>(widths[g % 6]));
      matrix_.groups.group_of_column.resize(c.cols);
      for (std::int64_t k = 0; k < c.cols; ++k)
        matrix_.groups.group_of_column[order[k]] = static_cast<std::uint16_t>(c.group == 0 ? 0 : c.group == -2 ? k * 7 % 3 : k / c.group);
    }
    SweepOptions options;
    options.block_columns = 32;
    options.scale_bits = c.scale_bits;
    if (c.sparsity > 0) options.pruning = {Pruning::Kind::Block, c.sparsity, 0, 0};
    if (c.group > 0) options.timing = GridTiming::Dynamic;
    if (c.clips) options.clips = solving_clips();
    swept_ = sweep({&matrix_, 1}, *factor_, options, pool_)[0];
    swept_.values = swept_.values.clone();
  }

  static SweepResult copy(const SweepResult& from) {
    SweepResult result = from;
    result.values = from.values.clone();
    return result;
  }

  double damping() const { return factor_->damping * factor_->scale; }

  double error(const at::Tensor& values) {
    const std::int64_t n = hessian_.size(0);
    double sum = 0;
    for (std::int64_t r = 0; r < values.size(0); ++r) {
      for (std::int64_t j = 0; j < n; ++j)
        for (std::int64_t k = 0; k < n; ++k) sum += difference(values, r * n + j) * damped(j, k) * difference(values, r * n + k);
    }
    return sum;
  }
  double difference(const at::Tensor& values, std::int64_t at) const {
    return static_cast<double>(matrix_.weights.const_data_ptr<float>()[at]) - values.const_data_ptr<float>()[at];
  }
  double damped(std::int64_t j, std::int64_t k) const {
    return static_cast<double>(hessian_.const_data_ptr<float>()[j * hessian_.size(0) + k]) + (j == k ? damping() : 0);
  }

  double refine_copy(SweepResult& result, const RefineOptions& options, ThreadPool& pool) {
    const RefineMatrix matrix{matrix_.weights, &result};
    return refine({&matrix, 1}, hessian_, damping(), factor_->order, options, pool)[0];
  }
};

TEST_P(RefineModes, LowersTheErrorByWhatItSays) {
  const Case& c = GetParam();
  const double before = error(swept_.values);
  double last = before;
  for (const RefineOptions& options : {RefineOptions{0, 2, true, {}}, RefineOptions{1, 1, false, {}}, RefineOptions{2, 2, true, {}}, RefineOptions{20, 2, true, {}}}) {
    SweepResult result = copy(swept_);
    const double gain = refine_copy(result, options, pool_), after = error(result.values);
    EXPECT_NEAR(before - after, gain, 1e-4 * before);
    EXPECT_LE(after, last * (1 + 1e-6));
    last = after;
  }
  EXPECT_LT(last, (c.scale_bits ? 1.0 : 0.995) * before);  // few scales can be coded, so they seldom move
  SweepResult result = copy(swept_);  // new grids are taken only where they are better
  const double gain = refine_copy(result, {3, 2, true, solving_clips()}, pool_), after = error(result.values);
  EXPECT_NEAR(before - after, gain, 1e-4 * before);
  EXPECT_LT(after, (c.scale_bits ? 1.0 : 0.999) * before);
}

// The device multiplies, in another order of sums; a step near a tie may go the other way, and those after it.
TEST_P(RefineModes, ADeviceGainsAsMuch) {
  const double before = error(swept_.values);
  SweepResult cpu = copy(swept_), device = copy(swept_);
  const RefineOptions options{2, 2, true, GetParam().clips ? solving_clips() : std::span<const float>{}};
  const double expected = refine_copy(cpu, options, pool_);
  const RefineMatrix matrix{matrix_.weights, &device};
  const double gain = refine({&matrix, 1}, hessian_, damping(), factor_->order, options, pool_, emulated_device())[0];
  EXPECT_NEAR(gain, expected, 0.01 * before);
  EXPECT_NEAR(before - error(device.values), gain, 1e-4 * before);
  EXPECT_EQ(device.packed.kept, cpu.packed.kept);
  if (GetParam().group != -1) {
    const at::Tensor decoded = decode_matrix(device.packed, pool_);
    EXPECT_EQ(std::memcmp(decoded.const_data_ptr(), device.values.const_data_ptr(), decoded.nbytes()), 0);
  }
}

TEST_P(RefineModes, KeepsTheFormOfTheSolution) {
  const Case& c = GetParam();
  for (const std::span<const float> clips : {std::span<const float>{}, solving_clips()}) {
    SweepResult result = copy(swept_);
    refine_copy(result, {2, 2, true, clips}, pool_);
    EXPECT_EQ(result.kept, swept_.kept);
    EXPECT_EQ(result.packed.kept, swept_.packed.kept);
    if (clips.empty()) {
      EXPECT_EQ(result.packed.zeros, swept_.packed.zeros);
    }
    const auto& kept = c.group == -1 ? result.kept : result.packed.kept;
    for (std::size_t i = 0; i < kept.size(); ++i) {
      if (!kept[i]) {
        ASSERT_EQ(result.values.const_data_ptr<float>()[i], 0);
      }
    }
    if (c.group == -1) continue;
    pack(result.packed);  // throws when a rule is broken
    const at::Tensor decoded = decode_matrix(result.packed, pool_);
    EXPECT_EQ(std::memcmp(decoded.const_data_ptr(), result.values.const_data_ptr(), decoded.nbytes()), 0);
    EXPECT_NE(result.packed.codes, swept_.packed.codes);
    EXPECT_NE(result.packed.scales, swept_.packed.scales);
  }
}

TEST_P(RefineModes, SameBytesForAnyNumberOfThreads) {
  std::optional<SweepResult> first;
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    SweepResult result = copy(swept_);
    refine_copy(result, {2, 2, true, solving_clips()}, pool);
    if (!first) first = copy(result);
    EXPECT_EQ(std::memcmp(result.values.const_data_ptr(), first->values.const_data_ptr(), result.values.nbytes()), 0);
    EXPECT_EQ(result.packed.codes, first->packed.codes);
    EXPECT_EQ(result.packed.scales, first->packed.scales);
  }
}

// Float32 against double: codes at the edge between two points may differ, and what follows from them; errors hardly do.
TEST_P(RefineModes, FollowsTheReference) {
  const Case& c = GetParam();
  if (c.group == -1 || c.scale_bits) return;
  const std::int64_t n = c.cols;
  SweepResult result = copy(swept_);
  result.packed.scale_dtype = DType::F32;
  refine_copy(result, {1, 2, true, {}}, pool_);

  const PackedMatrix& packed = swept_.packed;
  std::vector<std::int64_t> order = factor_->order, rank(packed.groups(), -1);
  for (std::int64_t k = 0, next = 0; k < n; ++k) {
    std::int64_t& place = rank[packed.group_of_column[order[k]]];
    if (place < 0) place = next++;
  }
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return rank[packed.group_of_column[a]] < rank[packed.group_of_column[b]]; });
  std::vector<std::vector<double>> h(n, std::vector<double>(n));
  for (std::int64_t j = 0; j < n; ++j)
    for (std::int64_t k = 0; k < n; ++k) h[j][k] = damped(order[j], order[k]);
  double got = 0, want = 0;
  std::int64_t different = 0;
  for (std::int64_t r = 0; r < c.rows; ++r) {
    reference::RefineRow row;
    row.scale.resize(packed.groups());
    row.zero.resize(packed.groups());
    row.max_code.resize(packed.groups());
    for (std::int64_t g = 0; g < packed.groups(); ++g) {
      row.scale[rank[g]] = packed.scales[g * c.rows + r];
      row.zero[rank[g]] = packed.zeros[g * c.rows + r];
      row.max_code[rank[g]] = (1 << packed.bits_of_group[g]) - 1;
    }
    for (std::int64_t k = 0; k < n; ++k) {
      const std::int64_t at = r * n + order[k];
      row.target.push_back(matrix_.weights.const_data_ptr<float>()[at]);
      row.code.push_back(packed.codes[at]);
      row.kept.push_back(packed.kept.empty() || packed.kept[at]);
      row.group.push_back(static_cast<int>(rank[packed.group_of_column[order[k]]]));
    }
    row.refine(h, 1, 2, true);
    want += row.error(h);
    for (std::int64_t k = 0; k < n; ++k) different += row.kept[k] && row.code[k] != result.packed.codes[r * n + order[k]];
  }
  got = error(result.values);
  EXPECT_NEAR(got, want, 2e-3 * want);
  EXPECT_LE(different, c.rows * n / 200);
}

// After enough passes no single weight can be moved to a better point.
TEST_P(RefineModes, EndsWhereNoSingleMoveHelps) {
  const Case& c = GetParam();
  if (c.group == -1 || c.group == 0) return;
  SweepResult result = copy(swept_);
  double last = 0;
  for (int i = 0; i < 60; ++i) {
    const double gain = refine_copy(result, {1, 1, false, {}}, pool_);
    if (gain == 0) break;
    last = gain;
  }
  const PackedMatrix& packed = result.packed;
  const double whole = error(result.values);
  for (std::int64_t r = 0; r < c.rows; r += 7) {
    for (std::int64_t j = 0; j < c.cols; ++j) {
      const std::int64_t at = r * c.cols + j, g = packed.group_of_column[j];
      if (!packed.kept.empty() && !packed.kept[at]) continue;
      double slope = 0;
      for (std::int64_t k = 0; k < c.cols; ++k) slope += difference(result.values, r * c.cols + k) * damped(j, k);
      for (int step : {-1, 1}) {
        const int code = packed.codes[at] + step;
        if (code < 0 || code >= 1 << packed.bits_of_group[g]) continue;
        const double move = step * static_cast<double>(packed.scales[g * c.rows + r]);
        EXPECT_LT(move * (2 * slope - move * damped(j, j)), 1e-6 * whole) << r << " " << j << " " << last;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, RefineModes,
                         testing::Values(Case{"groups", 70, 100, 16, 0, true}, Case{"large_groups", 130, 300, 150, 0, false},
                                         Case{"sparse", 70, 100, 23, 0.5, true}, Case{"few_rows", 5, 64, 64, 0, true}, Case{"coded", 70, 100, 16, 0, true, 6}, Case{"coded_sparse", 70, 100, 32, 0.5, true, 8},
                                         Case{"rows", 64, 96, 0, 0, false}, Case{"anywhere", 70, 100, -2, 0, true},
                                         Case{"anywhere_sparse", 33, 90, -2, 0.4, false}, Case{"prune_only", 70, 150, -1, 0.5, false}),
                         [](const auto& parameter) { return std::string(parameter.param.name); });

TEST(Refine, LeavesAPerfectSolutionAlone) {
  ThreadPool pool(2);
  const at::Tensor hessian = hessian_of(random_inputs(100, 32, 1), pool), weights = random_matrix(40, 32, 2);
  SweepResult solution;
  solution.packed = round_to_nearest(weights, contiguous_groups(32, 16, 4), {}, {}, pool);
  solution.values = decode_matrix(solution.packed, pool);
  const PackedMatrix before = solution.packed;
  const RefineMatrix matrix{solution.values.clone(), &solution};
  EXPECT_EQ(refine({&matrix, 1}, hessian, 0.01, natural_order(32), {}, pool)[0], 0);
  EXPECT_EQ(solution.packed.codes, before.codes);
  EXPECT_EQ(solution.packed.scales, before.scales);
}

TEST(Refine, RefusesWhatDoesNotFit) {
  ThreadPool pool(1);
  const at::Tensor hessian = hessian_of(random_inputs(100, 16, 1), pool);
  SweepResult solution;
  solution.packed = round_to_nearest(random_matrix(4, 16, 2), contiguous_groups(16, 16, 4), {}, {}, pool);
  solution.values = decode_matrix(solution.packed, pool);
  const RefineMatrix narrow{random_matrix(4, 15, 2), &solution}, fits{random_matrix(4, 16, 2), &solution};
  EXPECT_THROW(refine({&narrow, 1}, hessian, 0.01, natural_order(16), {}, pool), Error);
  EXPECT_THROW(refine({&fits, 1}, hessian, 0.01, natural_order(15), {}, pool), Error);
}

}  // namespace
}  // namespace miq
