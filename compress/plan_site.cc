// A place that every token reaches is sampled as one rank would that has all windows. An expert's tokens are sampled window by window, the first of each
// included, so at most a token a window more than were asked for.
#include "miq/compress/plan_site.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "miq/compress/rank_sums.h"

namespace miq {

void SiteSums::add(InputPlace place, std::span<const at::Tensor> inputs, const Recipe& recipe, std::int64_t all, const Ranks& ranks, ThreadPool& pool,
                   const ComputeDevice& where) {
  const bool information = recipe.needs_information();
  once.run({[&] {
              if (!information || recipe.mi_estimator != MiEstimator::Binned) return;
              if (!sample) sample.emplace(all);
              for (const at::Tensor& window : inputs) {
                sample->skip_to(place.expert < 0 ? (ranks.rank() + seen * ranks.size()) * window.size(0) : 0);
                sample->add(window);
                ++seen;
              }
            },
            [&] {
              if (!information && recipe.sparsity == 0) return;
              if (!hessian) hessian.emplace(inputs.front().size(1), where);
              hessian->add(inputs, pool);
            },
            [&] {
              for (const at::Tensor& window : inputs) {
                if (information || recipe.sparsity == 0) accumulate(channels, window, pool);
                tokens += window.size(0);
              }
            }});
}

std::map<InputPlace, int> owners_of(const Ranks& ranks, std::span<const InputPlace> places, const std::map<InputPlace, std::int64_t>& widths) {
  std::vector<double> costs;
  for (InputPlace place : places) costs.push_back(std::pow(static_cast<double>(widths.at(place)), 3));
  const std::vector<int> owners = spread_jobs(costs, ranks.size());
  std::map<InputPlace, int> result;
  for (std::size_t p = 0; p < places.size(); ++p) result[places[p]] = owners[p];
  return result;
}

void sum_places(Ranks& ranks, std::span<const InputPlace> places, const std::map<InputPlace, int>& owners, const std::map<InputPlace, std::int64_t>& widths,
                const Recipe& recipe, std::map<InputPlace, SiteSums>& sums, const ComputeDevice& where) {
  if (ranks.alone()) return;
  std::vector<double> tokens;
  for (InputPlace place : places) tokens.push_back(static_cast<double>(sums[place].tokens));
  ranks.sum(tokens);
  const bool information = recipe.needs_information(), binned = information && recipe.mi_estimator == MiEstimator::Binned;
  for (std::size_t p = 0; p < places.size(); ++p) {
    if (tokens[p] == 0) {
      sums.erase(places[p]);
      continue;
    }
    SiteSums& site = sums.at(places[p]);
    const std::int64_t width = widths.at(places[p]);
    const int owner = owners.at(places[p]);
    if (information || recipe.sparsity > 0) {
      if (!site.hessian) site.hessian.emplace(width, where);
      site.hessian->sum_over(ranks, owner);
    }
    if (information || recipe.sparsity == 0) sum_over(ranks, site.channels, width, owner);
    if (binned) {
      const at::Tensor own = site.sample ? site.sample->rows() : at::Tensor();  // a few windows may have none
      site.rows = gather_rows(ranks, own.defined() ? own.to(at::kCPU) : own, width, owner);
    }
    if (ranks.rank() != owner) site = {};
  }
}

SiteFacts measure_site(const SiteSums& sums, const Recipe& recipe, ThreadPool& pool, const ComputeDevice& where) {
  SiteFacts facts;
  SitePlan& site = facts.site;
  const at::Tensor hessian = sums.hessian ? sums.hessian->mean() : at::Tensor();
  if (hessian.defined()) {
    const at::Tensor diagonal = hessian.diagonal().to(at::kCPU, at::kDouble).contiguous();
    site.energy.assign(diagonal.const_data_ptr<double>(), diagonal.const_data_ptr<double>() + diagonal.numel());
  } else {
    site.energy = sums.channels.second_moment();
  }
  const auto channels = static_cast<std::int64_t>(site.energy.size());
  if (recipe.needs_information()) {
    facts.information = recipe.mi_estimator == MiEstimator::Binned ? binned_mutual_information((sums.rows.defined() ? sums.rows : sums.sample->rows()).to(where.device), pool, where)
                                                             : gaussian_mutual_information(hessian, sums.channels.mean(), pool, where);
    facts.information = facts.information.to(at::kCPU);
  }
  if (recipe.sparsity > 0) {
    FactorOptions factor_options;
    factor_options.damping = recipe.damping;
    auto factor = factor_inverse(hessian, natural_order(channels), factor_options, pool, where);
    if (factor) {
      site.inverse_diagonal = std::move(factor->inverse_diagonal);
    } else {  // as if channels were independent
      const double floor = std::max(1e-12, recipe.damping);
      for (double energy : site.energy) site.inverse_diagonal.push_back(1 / std::max(energy, floor));
    }
  }
  return facts;
}

SitePlan group_site(const SiteFacts& facts, const Recipe& recipe, std::uint64_t site_number, ThreadPool& pool, const ComputeDevice& where) {
  SitePlan site = facts.site;
  const at::Tensor& information = facts.information;
  const auto channels = static_cast<std::int64_t>(site.energy.size());
  GroupingOptions options;
  options.grouping = recipe.grouping;
  options.group_size = recipe.group_size;
  options.groups = recipe.n_groups ? recipe.groups(channels) : 0;
  options.seed = recipe.seed + site_number;
  options.clustering = recipe.clustering;
  options.run = recipe.run();
  site.channels = group_channels(options, site.energy, information, pool, where);
  if (information.defined()) {
    const std::vector<std::int32_t> group = site.channels.group_of_channel();
    site.information = summarize(information, group, pool);
    site.information_blocks = information_blocks(information, group, site.channels.groups(), pool);
    if (recipe.allocator == Allocator::Redundancy) site.information_within = information_within(information, group, site.channels.groups());
  }
  return site;
}

void plan_unseen(LayerPlan& layer, InputPlace place, std::int64_t channels, const Recipe& recipe, ThreadPool& pool) {
  double sum = 0, count = 0;
  for (const auto& [other, site] : layer.places) {
    if (other.site != place.site || other.expert < 0 || site.energy.empty()) continue;
    for (double energy : site.energy) sum += energy, ++count;
  }
  const double energy = count > 0 ? sum / count : 0;
  SitePlan site;
  site.energy.assign(static_cast<std::size_t>(channels), energy);
  if (recipe.sparsity > 0) site.inverse_diagonal.assign(static_cast<std::size_t>(channels), 1 / std::max(energy, 1e-12));
  GroupingOptions options;
  options.grouping = Grouping::Contiguous;
  options.group_size = recipe.group_size;
  options.groups = recipe.n_groups ? recipe.groups(channels) : 0;
  options.run = recipe.run();
  site.channels = group_channels(options, site.energy, {}, pool);
  site.information_within.assign(static_cast<std::size_t>(site.channels.groups()), 0.0);
  layer.places[place] = std::move(site);
}

std::uint64_t place_number(std::int64_t layer, InputPlace place) {
  return static_cast<std::uint64_t>(layer) * kInputSites.size() + static_cast<std::uint64_t>(place.site) +
         (static_cast<std::uint64_t>(place.expert + 1) << 32);
}

}  // namespace miq
