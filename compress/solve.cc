// One function per way to compress; the Hessian's factor is made once and shared by all matrices of the site.
#include "miq/compress/solve.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "miq/base/error.h"
#include "miq/compress/allocate.h"
#include "miq/compress/device_sweep.h"
#include "miq/compress/importance.h"
#include "miq/compress/quantizer.h"
#include "miq/compress/refine.h"
#include "miq/compress/saliency.h"
#include "miq/compress/sweep.h"

namespace miq {
namespace {

std::int64_t columns(const MatrixJob& job) { return job.weights.size(1); }

// One scale a row is stored as F32: it is what the original tools compute (their figures are met to six
// digits, instead of to some percent), and costs next to nothing. Groups store F16.
bool has_exact_scales(const Recipe& recipe, std::int64_t cols) {
  return recipe.method->layout == Layout::Uniform && recipe.groups(cols) == 1 && !recipe.codes_scales();
}

// Nearest values, of what a mask keeps.
MatrixResult round_matrix(const Recipe& recipe, const at::Tensor& weights, const KeptMask& kept, const ColumnGroups& groups, ThreadPool& pool) {
  MatrixResult result;
  if (groups.groups() == 0) {
    result.values = apply_mask(weights, kept);
    return result;
  }
  RoundingOptions options;
  options.automatic_scale_dtype = !has_exact_scales(recipe, weights.size(1));
  if (recipe.codes_scales()) options.scale_bits = recipe.scale_bits;
  options.clips = recipe.clips();
  result.packed = round_to_nearest(weights, groups, kept, options, pool);
  result.values = decode_matrix(*result.packed, pool);
  return result;
}

ColumnGroups uniform_groups(const Recipe& recipe, std::int64_t cols) {
  if (!recipe.quantize) return {};
  const std::int64_t groups = recipe.groups(cols);
  return contiguous_groups(cols, recipe.group_size ? recipe.group_size : groups > 1 ? (cols + groups - 1) / groups : 0, recipe.width);
}

// Runs of the sweep's order, or of the stored channels where the grids are static.
ColumnGroups uniform_groups(const Recipe& recipe, std::span<const std::int64_t> order) {
  const ColumnGroups runs = uniform_groups(recipe, static_cast<std::int64_t>(order.size()));
  if (recipe.static_groups || runs.groups() <= 1) return runs;
  ColumnGroups groups = runs;
  for (std::size_t k = 0; k < order.size(); ++k) groups.group_of_column[static_cast<std::size_t>(order[k])] = runs.group_of_column[k];
  return groups;
}

MatrixResult solve_by_score(const Recipe& recipe, const MatrixJob& job, const InputStatistics& input, ThreadPool& pool) {
  KeptMask kept;
  if (recipe.method->solver == Solver::Wanda && recipe.sparsity > 0) {
    std::vector<float> norms;
    for (double square : input.channels.second_moment()) norms.push_back(static_cast<float>(std::sqrt(square)));
    kept = recipe.prune_m ? wanda_mask_nm(job.weights, norms, recipe.prune_n, recipe.prune_m, pool)
                          : wanda_mask(job.weights, norms, recipe.sparsity, pool);
  } else if (recipe.method->solver == Solver::Magnitude && recipe.sparsity > 0) {
    kept = recipe.prune_m ? magnitude_mask_nm(job.weights, recipe.prune_n, recipe.prune_m, pool) : magnitude_mask(job.weights, recipe.sparsity, pool);
  }
  return round_matrix(recipe, job.weights, kept, uniform_groups(recipe, columns(job)), pool);
}

// A group for each width that a channel got; channels of a group lie anywhere.
ColumnGroups groups_by_level(std::span<const std::uint8_t> bits, std::span<const int> levels) {
  ColumnGroups groups;
  std::vector<std::uint16_t> group_of_level(levels.size());
  for (std::size_t l = 0; l < levels.size(); ++l) {
    if (std::find(bits.begin(), bits.end(), levels[l]) == bits.end()) continue;
    group_of_level[l] = static_cast<std::uint16_t>(groups.bits_of_group.size());
    groups.bits_of_group.push_back(static_cast<std::uint8_t>(levels[l]));
  }
  for (std::uint8_t b : bits) {
    groups.group_of_column.push_back(group_of_level[static_cast<std::size_t>(std::find(levels.begin(), levels.end(), b) - levels.begin())]);
  }
  return groups;
}

std::vector<std::uint8_t> widths_by_score(const Recipe& recipe, std::span<const double> score, std::span<const double> kept) {
  if (recipe.bit_method == BitMethod::Budget) return allocate_budget(score, kept, *recipe.target, 1.0, recipe.levels);
  if (recipe.target) return allocate_quantile(score, kept, *recipe.target, recipe.levels);
  return allocate_quantile(score, kept, recipe.levels);
}

// Widths of `enhanced`: by the channels' importance, over what is kept of each.
ColumnGroups importance_groups(const Recipe& recipe, const MatrixJob& job, const InputStatistics& input, const InverseFactor& factor,
                               std::span<const double> kept, std::optional<std::array<double, 2>>& range, ThreadPool& pool) {
  const std::vector<double> score =
      channel_importance(input.channels, job.weights, factor.inverse_diagonal, recipe.importance_weights, pool);
  const auto [least, most] = std::minmax_element(score.begin(), score.end());
  range = std::array<double, 2>{*least, *most};
  return groups_by_level(widths_by_score(recipe, score, kept), recipe.levels);
}

ColumnGroups planned_groups(const SitePlan& site, const MatrixPlan& matrix) {
  ColumnGroups groups;
  if (matrix.bits_of_group.empty()) return groups;
  groups.bits_of_group = matrix.bits_of_group;
  for (std::int32_t group : site.channels.group_of_channel()) groups.group_of_column.push_back(static_cast<std::uint16_t>(group));
  return groups;
}

Pruning pruning_of(const Recipe& recipe) {
  Pruning pruning;
  if (recipe.sparsity == 0) return pruning;
  pruning.sparsity = recipe.sparsity;
  pruning.n = recipe.prune_n;
  pruning.m = recipe.prune_m;
  pruning.kind = recipe.prune_m                            ? Pruning::Kind::PatternNM
                 : recipe.method->layout == Layout::Uniform ? Pruning::Kind::SparseGpt
                                                            : Pruning::Kind::Block;
  return pruning;
}

double square_sum(const at::Tensor& values) {
  const float* data = values.const_data_ptr<float>();
  double sum = 0;
  for (std::int64_t i = 0; i < values.numel(); ++i) sum += static_cast<double>(data[i]) * data[i];
  return sum;
}

// What the sweep aimed at: the weights, without those of dead columns where these are to be zero.
at::Tensor swept_weights(const at::Tensor& weights, const InverseFactor& factor) {
  if (factor.dead_columns == DeadColumns::Keep || factor.dead_count() == 0) return weights;
  at::Tensor target = weights.clone();
  for (std::int64_t k = 0; k < factor.size(); ++k) {
    if (factor.dead[static_cast<std::size_t>(k)]) target.select(1, k).zero_();
  }
  return target;
}

// Empty where the recipe does not refine.
std::vector<double> refine_solutions(const Recipe& recipe, std::span<const MatrixJob> jobs, std::span<SweepResult> swept,
                                     const at::Tensor& hessian, const InverseFactor& factor, ThreadPool& pool,
                                     const ComputeDevice& where) {
  if (recipe.refine == 0) return {};
  std::vector<RefineMatrix> matrices;
  for (std::size_t i = 0; i < jobs.size(); ++i) matrices.push_back({swept_weights(jobs[i].weights, factor), &swept[i]});
  RefineOptions options;
  options.passes = recipe.refine;
  if (recipe.method->layout == Layout::Groups) options.clips = solving_clips();
  return refine(matrices, hessian.to(at::kCPU), factor.damping * factor.scale, factor.order, options, pool, where);
}

// `gains`: by how much refining lowered each matrix' loss, damping counted as input; empty: not refined.
std::vector<MatrixResult> collect(std::span<const MatrixJob> jobs, std::vector<SweepResult> swept, std::span<const double> gains,
                                  const InverseFactor& factor, bool quantize, ThreadPool& pool) {
  std::vector<MatrixResult> results(swept.size());
  pool.for_each(static_cast<std::int64_t>(swept.size()), [&](std::int64_t unit) {
    const auto i = static_cast<std::size_t>(unit);
    results[i].values = std::move(swept[i].values);
    if (quantize) results[i].packed = std::move(swept[i].packed);
    // The sweep's loss counts the damping as if it were input.
    const double damping = factor.damping * factor.scale * square_sum(jobs[i].weights.sub(results[i].values).contiguous());
    const double loss = 2 * swept[i].loss - (gains.empty() ? 0 : gains[i]);
    results[i].output_loss = std::max(0.0, loss - damping);
    if (!gains.empty() && swept[i].loss > 0) results[i].refined = gains[i] / (2 * swept[i].loss);
  });
  return results;
}

// The masks that the sweep alone would choose. `enhanced` spends its bits on what is kept, so it must know that first.
std::vector<KeptMask> masks_by_sweep(const Recipe& recipe, std::span<const MatrixJob> jobs, const InverseFactor& factor, ThreadPool& pool,
                                     const ComputeDevice& where) {
  SweepOptions options;
  options.pruning = pruning_of(recipe);
  std::vector<SweepMatrix> matrices(jobs.size());
  for (std::size_t i = 0; i < jobs.size(); ++i) matrices[i].weights = jobs[i].weights;
  std::vector<KeptMask> masks;
  for (SweepResult& result : sweep_on(where, matrices, factor, options, pool)) masks.push_back(std::move(result.kept));
  return masks;
}

std::vector<double> kept_of_columns(const KeptMask& kept, std::int64_t rows, std::int64_t cols) {
  std::vector<double> counts(static_cast<std::size_t>(cols), kept.empty() ? static_cast<double>(rows) : 0.0);
  for (std::size_t i = 0; i < kept.size(); ++i) counts[i % static_cast<std::size_t>(cols)] += kept[i];
  return counts;
}

// Where the sweep's assumptions break (channels twelve decades apart, rows of one value) it can lose to plain rounding. Then the nearest
// values of the same groups and zeros are kept instead, and counted as every fallback is.
void keep_nearest_where_better(const Recipe& recipe, const MatrixJob& job, const at::Tensor& hessian, MatrixResult& result, ThreadPool& pool) {
  constexpr double kMargin = 1.001;  // of sums in float32
  RoundingOptions options;
  options.automatic_scale_dtype = !has_exact_scales(recipe, columns(job));
  if (recipe.codes_scales()) options.scale_bits = recipe.scale_bits;
  PackedMatrix packed = round_to_nearest(job.weights, {result.packed->group_of_column, result.packed->bits_of_group}, result.packed->kept, options, pool);
  at::Tensor values = decode_matrix(packed, pool);
  const double loss = output_error(job.weights, values, hessian, pool);
  if (*result.output_loss <= kMargin * loss || output_error(job.weights, result.values, hessian, pool) <= kMargin * loss) return;
  result.values = std::move(values);
  result.packed = std::move(packed);
  result.output_loss = loss;
  result.refined = 0;
  result.fallback = true;
}

std::vector<MatrixResult> solve_by_sweep(const Recipe& recipe, std::span<const MatrixJob> jobs, const InputStatistics& input,
                                         const InverseFactor& factor, const SitePlan* plan, ThreadPool& pool, const ComputeDevice& where) {
  SweepOptions options;
  options.pruning = pruning_of(recipe);
  options.automatic_scale_dtype = !has_exact_scales(recipe, columns(jobs.front()));
  if (recipe.codes_scales()) options.scale_bits = recipe.scale_bits;
  options.clips = recipe.clips();
  std::vector<KeptMask> masks(jobs.size());
  if (recipe.method->layout == Layout::Levels && recipe.sparsity > 0) {
    masks = masks_by_sweep(recipe, jobs, factor, pool, where);
    options.pruning.kind = Pruning::Kind::Given;
  }
  std::vector<SweepMatrix> matrices;
  std::vector<std::optional<std::array<double, 2>>> importance(jobs.size());
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    const MatrixJob& job = jobs[i];
    SweepMatrix& matrix = matrices.emplace_back();
    matrix.weights = job.weights;
    switch (recipe.method->layout) {
      case Layout::Uniform:
        matrix.groups = uniform_groups(recipe, factor.order);
        if (matrix.groups.groups() > 1 && !recipe.static_groups) options.timing = GridTiming::Dynamic;
        break;
      case Layout::Levels: {
        const std::vector<double> kept = kept_of_columns(masks[i], job.weights.size(0), columns(job));
        matrix.groups = importance_groups(recipe, job, input, factor, kept, importance[i], pool);
        matrix.kept = std::move(masks[i]);
        break;
      }
      case Layout::Groups:
        matrix.groups = planned_groups(*plan, *job.plan);
        matrix.row_weights = job.plan->row_weights;
        if (!recipe.prune_m) matrix.pruned_of_block = job.plan->pruned_of_group;
        options.timing = GridTiming::Dynamic;
        // With zeros every group is a block of its own, so its share of kept weights is the planned one.
        if (recipe.sparsity > 0) options.block_columns = 1;
        importance[i] = std::array<double, 2>{job.plan->least_importance, job.plan->most_importance};
        break;
    }
  }
  std::vector<SweepResult> swept = sweep_on(where, matrices, factor, options, pool);
  const std::vector<double> gains = refine_solutions(recipe, jobs, swept, input.hessian, factor, pool, where);
  std::vector<MatrixResult> results = collect(jobs, std::move(swept), gains, factor, recipe.quantize, pool);
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (recipe.quantize) keep_nearest_where_better(recipe, jobs[i], input.hessian, results[i], pool);
    results[i].importance = importance[i];
    results[i].damping = factor.damping;
    results[i].dead_channels = factor.dead_count();
  }
  return results;
}

// Of each planned group as many weights as the plan says, those of least f_r w^2.
KeptMask planned_mask(const MatrixJob& job, const SitePlan& plan) {
  const std::int64_t rows = job.weights.size(0), n = columns(job);
  const float* w = job.weights.const_data_ptr<float>();
  KeptMask kept(static_cast<std::size_t>(rows * n), 1);
  for (std::int64_t g = 0; g < plan.channels.groups(); ++g) {
    std::vector<std::pair<double, std::int64_t>> scores;  // and the place in the matrix, which decides between equal ones
    for (std::int64_t k = plan.channels.starts[static_cast<std::size_t>(g)]; k < plan.channels.starts[static_cast<std::size_t>(g) + 1];
         ++k) {
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t at = r * n + plan.channels.order[static_cast<std::size_t>(k)];
        scores.emplace_back(static_cast<double>(job.plan->row_weights[static_cast<std::size_t>(r)]) * w[at] * w[at], at);
      }
    }
    const auto end = scores.begin() + job.plan->pruned_of_group[static_cast<std::size_t>(g)];
    std::nth_element(scores.begin(), end, scores.end());
    for (auto score = scores.begin(); score != end; ++score) kept[static_cast<std::size_t>(score->second)] = 0;
  }
  return kept;
}

// Widths of `enhanced` when nothing is known but the weights: by the size of the columns.
ColumnGroups weight_groups(const Recipe& recipe, const MatrixJob& job, const KeptMask& kept) {
  const std::int64_t rows = job.weights.size(0), n = columns(job);
  const float* w = job.weights.const_data_ptr<float>();
  std::vector<double> score(static_cast<std::size_t>(n), 0.0);
  for (std::int64_t i = 0; i < rows * n; ++i) score[static_cast<std::size_t>(i % n)] += static_cast<double>(w[i]) * w[i];
  for (double& value : score) value = std::log(value + 1e-12);
  return groups_by_level(widths_by_score(recipe, score, kept_of_columns(kept, rows, n)), recipe.levels);
}

// No factor, or no token: nearest values, with the planned or uniform groups.
MatrixResult fall_back(const Recipe& recipe, const MatrixJob& job, const SitePlan* plan, ThreadPool& pool) {
  KeptMask kept;
  if (recipe.method->solver == Solver::Wanda && recipe.sparsity > 0) {  // all inputs alike
    const std::vector<float> norms(static_cast<std::size_t>(columns(job)), 1.0f);
    kept = recipe.prune_m ? wanda_mask_nm(job.weights, norms, recipe.prune_n, recipe.prune_m, pool)
                          : wanda_mask(job.weights, norms, recipe.sparsity, pool);
  } else if (recipe.prune_m) {
    kept = magnitude_mask_nm(job.weights, recipe.prune_n, recipe.prune_m, pool);
  } else if (plan && !job.plan->pruned_of_group.empty()) {
    kept = planned_mask(job, *plan);
  } else if (recipe.sparsity > 0) {
    kept = magnitude_mask(job.weights, recipe.sparsity, pool);
  }
  ColumnGroups groups;
  switch (recipe.method->layout) {
    case Layout::Uniform: groups = uniform_groups(recipe, columns(job)); break;
    case Layout::Levels: groups = weight_groups(recipe, job, kept); break;
    case Layout::Groups: groups = planned_groups(*plan, *job.plan); break;
  }
  MatrixResult result = round_matrix(recipe, job.weights, kept, groups, pool);
  result.fallback = true;
  return result;
}

std::vector<std::int64_t> sweep_order(const Recipe& recipe, const at::Tensor& hessian, const SitePlan* plan) {
  if (plan) return plan->channels.order;
  if (!recipe.act_order) return natural_order(hessian.size(0));
  const at::Tensor diagonal = hessian.diagonal().to(at::kCPU, at::kDouble).contiguous();
  return runs_by_falling(std::span(diagonal.const_data_ptr<double>(), static_cast<std::size_t>(diagonal.numel())), recipe.run());
}

// tr(W H W^T), in strips of rows.
double output_energy(const at::Tensor& weights, const at::Tensor& hessian, at::ScalarType type, ThreadPool& pool) {
  if (!hessian.is_cpu()) {
    const at::NoGradGuard no_grad;
    const at::Tensor w = weights.to(hessian.device());
    return at::mm(w, hessian).mul_(w).sum(at::kDouble).item<double>();
  }
  const at::Tensor h = hessian.to(type);
  const std::int64_t strip = 64, strips = (weights.size(0) + strip - 1) / strip;
  std::vector<double> sums(static_cast<std::size_t>(strips));
  pool.for_each(strips, [&](std::int64_t unit) {
    const at::NoGradGuard no_grad;
    const at::Tensor rows = weights.narrow(0, unit * strip, std::min(strip, weights.size(0) - unit * strip));
    const at::Tensor outputs = at::mm(rows.to(type), h).to(at::kFloat);
    sums[static_cast<std::size_t>(unit)] = rows.mul(outputs).sum(at::kDouble).item<double>();
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

// What share of the outputs' energy is lost. The energy itself is a figure for people: its product is made in
// the compute type, which for bfloat16 costs a third.
double relative_error(const Recipe& recipe, const at::Tensor& weights, const MatrixResult& result, const at::Tensor& hessian, ThreadPool& pool) {
  double lost, whole;
  if (hessian.defined()) {
    lost = result.output_loss ? *result.output_loss : output_error(weights, result.values, hessian, pool);
    whole = output_energy(weights, hessian, recipe.compute == ComputeType::BFloat16 ? at::kBFloat16 : at::kFloat, pool);
  } else {
    lost = square_sum(weights.sub(result.values).contiguous());
    whole = square_sum(weights);
  }
  return whole > 0 ? lost / whole : 0;
}

}  // namespace

bool needs_hessian(const Recipe& recipe) { return recipe.method->solver == Solver::Hessian; }
bool needs_channel_statistics(const Recipe& recipe) {
  return (recipe.method->solver == Solver::Wanda && recipe.sparsity > 0) || (recipe.method->layout == Layout::Levels && recipe.quantize);
}

std::vector<MatrixResult> solve_place(const Recipe& recipe, std::span<const MatrixJob> jobs, const InputStatistics& input,
                                      const SitePlan* plan, ThreadPool& pool, const ComputeDevice& where) {
  std::vector<MatrixResult> results;
  if (needs_calibration(recipe) && input.tokens == 0) {
    for (const MatrixJob& job : jobs) results.push_back(fall_back(recipe, job, plan, pool));
  } else if (needs_hessian(recipe)) {
    FactorOptions options;
    options.damping = recipe.damping;
    options.dead_columns = recipe.dead_columns;
    const auto order = sweep_order(recipe, input.hessian, plan);
    if (const auto factor = factor_inverse(input.hessian, order, options, pool, where)) {
      results = solve_by_sweep(recipe, jobs, input, *factor, plan, pool, where);
    } else {
      for (const MatrixJob& job : jobs) results.push_back(fall_back(recipe, job, plan, pool));
    }
  } else {
    for (const MatrixJob& job : jobs) results.push_back(solve_by_score(recipe, job, input, pool));
  }
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    results[i].error = relative_error(recipe, jobs[i].weights, results[i], input.hessian, pool);
  }
  return results;
}

}  // namespace miq
