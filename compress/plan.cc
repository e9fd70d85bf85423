// The two walks are plan_walk.h's. What follows here is arithmetic on the vectors that they leave: zeros first, since a width costs only what is
// kept, then widths under the budget.
#include "miq/compress/plan.h"

#include <algorithm>
#include <cmath>

#include "miq/base/error.h"
#include "miq/compress/plan_bits.h"
#include "miq/compress/plan_costs.h"
#include "miq/compress/plan_record.h"
#include "miq/compress/plan_walk.h"
#include "miq/compress/predicted_loss.h"
#include "miq/compress/rank_journal.h"
#include "miq/compress/rank_sums.h"
#include "miq/compress/sparsity_plan.h"
#include "miq/model/matrix_kind.h"

namespace miq {
namespace {

// Visits all matrices in a fixed order: layer by layer, rule by rule.
template <typename Visit>
void for_each_matrix(const ForwardPass& dense, const Visit& visit) {
  for (std::int64_t l = 0; l < dense.layers(); ++l) {
    for (const LayerTensor& rule : layer_tensors(dense.model().config, l)) {
      if (rule.linear()) visit(static_cast<std::size_t>(l), rule);
    }
  }
}

// The same of a pattern: every group loses the same share.
std::vector<std::vector<double>> plan_pattern(const ForwardPass& dense, const Recipe& recipe, std::vector<LayerPlan>& plan, ThreadPool& pool) {
  std::vector<std::vector<double>> kept;
  for_each_matrix(dense, [&](std::size_t l, const LayerTensor& rule) {
    MatrixPlan& matrix = plan[l].matrices[std::string(rule.name)];
    const SitePlan& site = plan[l].places.at(rule.place());
    const std::vector<std::int64_t>& starts = site.channels.starts;
    for (std::size_t g = 0; g + 1 < starts.size(); ++g) {
      matrix.pruned_of_group.push_back(rule.shape[0] * (starts[g + 1] - starts[g]) / recipe.prune_m * recipe.prune_n);
    }
    const at::Tensor w = matrix_values(dense.model(), static_cast<std::int64_t>(l), rule.name);
    kept.push_back(kept_shares_of_pattern(w, site.channels, site.inverse_diagonal, recipe.prune_n,
                                          recipe.prune_m, pool));
  });
  return kept;
}

// Zeros: how many weights each group loses, and which share of each column is predicted to stay.
std::vector<std::vector<double>> plan_zeros(const ForwardPass& dense, const Recipe& recipe, std::vector<LayerPlan>& plan,
                                            std::vector<LayerCosts>& costs, ThreadPool& pool) {
  if (recipe.prune_m) return plan_pattern(dense, recipe, plan, pool);
  std::vector<ScoreHistogram> histograms;
  for_each_matrix(dense, [&](std::size_t l, const LayerTensor& rule) {
    histograms.push_back(std::move(costs[l].find(rule.name)->second.scores));
  });
  SparsityOptions options;
  options.sparsity = recipe.sparsity;
  if (recipe.sparsity_allocation == SparsityAllocation::Even) {
    options.blend = 0;
    options.smallest = 0;
    options.largest = 1;
  }
  SparsityPlan zeros = plan_sparsity(histograms, options);
  std::vector<std::vector<double>> kept;
  std::size_t item = 0;
  for_each_matrix(dense, [&](std::size_t l, const LayerTensor& rule) {
    MatrixPlan& matrix = plan[l].matrices[std::string(rule.name)];
    const SitePlan& site = plan[l].places.at(rule.place());
    matrix.pruned_of_group = std::move(zeros.pruned[item++]);
    const at::Tensor w = matrix_values(dense.model(), static_cast<std::int64_t>(l), rule.name);
    kept.push_back(kept_shares(w, site.channels, costs[l].find(rule.name)->second.sensitivity,
                               site.inverse_diagonal, matrix.pruned_of_group, pool, 1));
  });
  return kept;
}

// Returns the loss that is predicted for the widths.
double plan_widths(const ForwardPass& dense, const Recipe& recipe, std::vector<LayerPlan>& plan, const std::vector<LayerCosts>& costs,
                 const std::vector<std::vector<double>>& kept_share) {
  std::vector<MatrixItems> items;
  for_each_matrix(dense, [&](std::size_t l, const LayerTensor& rule) {
    MatrixPlan& matrix = plan[l].matrices[std::string(rule.name)];
    const SitePlan& site = plan[l].places.at(rule.place());
    const MatrixCosts& cost = costs[l].find(rule.name)->second;
    const std::span<const double> share =
        kept_share.empty() ? std::span<const double>{} : std::span<const double>(kept_share[items.size()]);
    MatrixItems& item = items.emplace_back();
    item.layer = static_cast<std::int64_t>(l);
    item.rows = rule.shape[0];
    item.kind = matrix_kind(short_linear_name(rule.name));
    item.starts = site.channels.starts;
    item.losses = group_losses(cost.column_errors, site.channels, site.energy, share, recipe.levels);
    item.information = site.information_within;
    item.masked = recipe.sparsity > 0;
    item.scale_bits = cost.wide_scales ? 32 : recipe.scale_bits;
    for (std::int64_t g = 0; g < site.channels.groups(); ++g) {
      const auto group = static_cast<std::size_t>(g);
      const std::int64_t weights = item.rows * (site.channels.starts[group + 1] - site.channels.starts[group]);
      const std::int64_t pruned = matrix.pruned_of_group.empty() ? 0 : matrix.pruned_of_group[group];
      item.kept.push_back(static_cast<double>(weights - pruned));
    }
    double least = INFINITY, most = -INFINITY;
    for (std::size_t k = 0; k < site.energy.size(); ++k) {
      const double loss = site.energy[static_cast<std::size_t>(site.channels.order[k])] * cost.column_errors[k];
      const double importance = std::log10(std::max(loss, 1e-30));
      least = std::min(least, importance);
      most = std::max(most, importance);
    }
    matrix.least_importance = least;
    matrix.most_importance = most;
  });
  std::vector<std::vector<std::uint8_t>> widths = plan_bits(items, recipe);
  double loss = 0;
  std::size_t next = 0;
  for_each_matrix(dense, [&](std::size_t l, const LayerTensor& rule) {
    for (std::size_t g = 0; g < widths[next].size(); ++g) {
      const auto level = std::find(recipe.levels.begin(), recipe.levels.end(), static_cast<int>(widths[next][g])) - recipe.levels.begin();
      loss += items[next].losses[g * recipe.levels.size() + static_cast<std::size_t>(level)];
    }
    plan[l].matrices[std::string(rule.name)].bits_of_group = std::move(widths[next++]);
  });
  return loss;
}

// One for each size of groups that is to be tried.
std::vector<Recipe> candidates(const Recipe& recipe) {
  if (!recipe.auto_groups) return {recipe};
  std::vector<Recipe> list;
  for (std::int64_t size : kGroupSizes) {
    list.push_back(recipe);
    list.back().auto_groups = false;
    list.back().group_size = size;
  }
  return list;
}

}  // namespace

std::int64_t plan_windows(const Config& config, std::int64_t windows, std::int64_t seqlen) {
  constexpr double kTokensPerChannel = 4;
  double tokens = 0;
  for (std::int64_t l = 0; l < static_cast<std::int64_t>(config.layers.size()); ++l) {
    for (const LayerTensor& tensor : layer_tensors(config, l)) {
      if (tensor.linear()) tokens = std::max(tokens, kTokensPerChannel * static_cast<double>(tensor.shape[1]) / token_share(config, l, tensor));
    }
  }
  const auto wanted = static_cast<std::int64_t>(std::ceil(tokens / static_cast<double>(std::max<std::int64_t>(1, seqlen))));
  return std::min(windows, std::max(kSensitivityWindows, wanted));
}

std::vector<LayerPlan> make_plan(const ForwardPass& dense, const Calibration& all, const Recipe& recipe, ThreadPool& pool,
                                 const PlanProgress& advance, RankJournal* journal, const WorkingMemory& memory, Ranks& ranks,
                                 const ComputeDevice& where) {
  Calibration calibration;
  const auto seqlen = static_cast<std::int64_t>(all.windows.front().size());
  const std::int64_t few = plan_windows(dense.model().config, static_cast<std::int64_t>(all.windows.size()), seqlen);
  calibration.windows.assign(all.windows.begin(), all.windows.begin() + few);
  calibration = own_windows(ranks, calibration);
  const std::vector<Recipe> recipes = candidates(recipe);
  if (recipes.size() > 1) journal = nullptr;  // its steps hold one way to group the channels; the finished plan is kept all the same
  std::vector<std::vector<LayerPlan>> plans(recipes.size(), std::vector<LayerPlan>(static_cast<std::size_t>(dense.layers())));
  auto states = walk_forward(dense, calibration, recipes, plans, pool, advance, journal, memory, ranks, few, where);
  std::vector<std::vector<LayerCosts>> costs = walk_back(dense, calibration, recipes, plans, std::move(states), pool, advance, journal, ranks, few);
  std::size_t best = 0;
  double least = INFINITY;
  for (std::size_t c = 0; ranks.first() && c < recipes.size(); ++c) {
    double loss = 0;
    try {
      std::vector<std::vector<double>> kept;
      if (recipe.sparsity > 0) kept = plan_zeros(dense, recipes[c], plans[c], costs[c], pool);
      if (recipe.quantize) loss = plan_widths(dense, recipes[c], plans[c], costs[c], kept);
    } catch (const UsageError&) {  // the target cannot be reached with groups of this size
      if (c + 1 == recipes.size() && least == INFINITY) throw;
      continue;
    }
    if (loss < least) best = c, least = loss;
  }
  std::vector<LayerPlan> plan = std::move(plans[best]);
  if (ranks.first()) {
    for_each_matrix(dense, [&](std::size_t l, const LayerTensor& rule) {
      const std::vector<double>& f = costs[best][l].find(rule.name)->second.sensitivity;
      plan[l].matrices[std::string(rule.name)].row_weights.assign(f.begin(), f.end());
    });
  }
  if (!ranks.alone()) {
    RecordWriter writer;
    if (ranks.first()) write_plan(writer, plan);
    RecordReader reader = share_record(ranks, writer);
    if (!ranks.first()) plan = read_plan(reader, dense.model().config, recipe);
  }
  advance("budget", 1 - kPlanForwardShare - kPlanBackwardShare);
  return plan;
}

}  // namespace miq
