// A layer's second moments are reduced to what the plan needs (energies, diagonal of the inverse, groups) before the next layer is walked; of the
// way back only vectors stay.
#include "miq/compress/plan_walk.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <set>

#include "miq/compress/channel_statistics.h"
#include "miq/compress/hessian.h"
#include "miq/compress/predicted_loss.h"
#include "miq/compress/quantizer.h"
#include "miq/compress/run_journal.h"
#include "miq/compress/walk.h"

namespace miq {
namespace {

// A site while the windows pass. Products of channels are summed only where the plan reads them.
struct SiteSums {
  std::optional<HessianSum> hessian;
  ChannelStatistics channels;
  std::optional<TokenSample> sample;

  // `tokens`: how many may come.
  void add(std::span<const at::Tensor> inputs, const Recipe& recipe, std::int64_t tokens, ThreadPool& pool) {
    const bool information = recipe.needs_information();
    if (information && recipe.mi_estimator == MiEstimator::Binned) {
      if (!sample) sample.emplace(tokens);
      for (const at::Tensor& window : inputs) sample->add(window);
    }
    if (information || recipe.sparsity > 0) {
      if (!hessian) hessian.emplace(inputs.front().size(1));
      hessian->add(inputs, pool);
    }
    if (information || recipe.sparsity == 0) {
      for (const at::Tensor& window : inputs) accumulate(channels, window, pool);
    }
  }
};

// What is known of a site whatever its groups; its information too, which a plan does not keep.
struct SiteFacts {
  SitePlan site;
  at::Tensor information;
};

SiteFacts measure_site(const SiteSums& sums, const Recipe& recipe, ThreadPool& pool) {
  SiteFacts facts;
  SitePlan& site = facts.site;
  const at::Tensor hessian = sums.hessian ? sums.hessian->mean() : at::Tensor();
  if (hessian.defined()) {
    const at::Tensor diagonal = hessian.diagonal().to(at::kDouble).contiguous();
    site.energy.assign(diagonal.const_data_ptr<double>(), diagonal.const_data_ptr<double>() + diagonal.numel());
  } else {
    site.energy = sums.channels.second_moment();
  }
  const auto channels = static_cast<std::int64_t>(site.energy.size());
  if (recipe.needs_information()) {
    facts.information = recipe.mi_estimator == MiEstimator::Binned ? binned_mutual_information(sums.sample->rows(), pool)
                                                             : gaussian_mutual_information(hessian, sums.channels.mean(), pool);
  }
  if (recipe.sparsity > 0) {
    FactorOptions factor_options;
    factor_options.damping = recipe.damping;
    auto factor = factor_inverse(hessian, natural_order(channels), factor_options, pool);
    if (factor) {
      site.inverse_diagonal = std::move(factor->inverse_diagonal);
    } else {  // as if channels were independent
      const double floor = std::max(1e-12, recipe.damping);
      for (double energy : site.energy) site.inverse_diagonal.push_back(1 / std::max(energy, floor));
    }
  }
  return facts;
}

SitePlan group_site(const SiteFacts& facts, const Recipe& recipe, std::uint64_t site_number, ThreadPool& pool) {
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
  site.channels = group_channels(options, site.energy, information, pool);
  if (information.defined()) {
    const std::vector<std::int32_t> group = site.channels.group_of_channel();
    site.information = summarize(information, group, pool);
    if (recipe.allocator == Allocator::Redundancy) site.information_within = information_within(information, group, site.channels.groups());
  }
  return site;
}

// A place that no token reached, in the plan as an average expert of its layer: equal channels in their own order.
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

// Decorrelates the seeds of places.
std::uint64_t place_number(std::int64_t layer, InputPlace place) {
  return static_cast<std::uint64_t>(layer) * kInputSites.size() + static_cast<std::uint64_t>(place.site) +
         (static_cast<std::uint64_t>(place.expert + 1) << 32);
}

__attribute__((target_clones("avx512f", "avx2", "default"))) void add_squares(const float* x, std::int64_t n, double* sums) {
  for (std::int64_t i = 0; i < n; ++i) sums[i] += static_cast<double>(x[i]) * x[i];
}

// bfloat16 bits: the upper half of a float.
__attribute__((target_clones("avx512f", "avx2", "default"))) void add_squares(const std::uint16_t* x, std::int64_t n, double* sums) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float value = std::bit_cast<float>(static_cast<std::uint32_t>(x[i]) << 16);
    sums[i] += static_cast<double>(value) * value;
  }
}

// Sums over the rows of x^2, row after row in double.
std::vector<double> column_squares(const at::Tensor& x) {
  const bool narrow = x.scalar_type() == at::kBFloat16;
  at::Tensor rows = narrow ? x : x.to(at::kFloat);
  if (rows.stride(1) != 1) rows = rows.contiguous();
  std::vector<double> sums(static_cast<std::size_t>(rows.size(1)));
  for (std::int64_t t = 0; t < rows.size(0); ++t) {
    const std::int64_t at = t * rows.stride(0);
    if (narrow) {
      add_squares(static_cast<const std::uint16_t*>(rows.const_data_ptr()) + at, rows.size(1), sums.data());
    } else {
      add_squares(rows.const_data_ptr<float>() + at, rows.size(1), sums.data());
    }
  }
  return sums;
}

LayerCosts walk_layer_back(const ForwardPass& dense, const LayerWeights& weights, std::span<const at::Tensor> inputs,
                           std::vector<at::Tensor>& gradients, ThreadPool& pool) {
  std::vector<std::map<std::string, std::vector<double>, std::less<>>> squares(inputs.size());
  pool.for_each(static_cast<std::int64_t>(inputs.size()), [&](std::int64_t unit) {
    const auto w = static_cast<std::size_t>(unit);
    auto observe = [&](std::string_view rule, const at::Tensor& gradient) {
      squares[w][std::string(rule)] = column_squares(gradient);
    };
    gradients[w] = dense.backward_layer(weights, inputs[w].to(at::kFloat), gradients[w], observe);
  });
  LayerCosts costs;
  const double tokens = static_cast<double>(inputs.front().size(0)) * static_cast<double>(inputs.size());
  for (const auto& window : squares) {
    for (const auto& [rule, sum] : window) {
      std::vector<double>& f = costs[rule].sensitivity;
      f.resize(sum.size());
      for (std::size_t r = 0; r < f.size(); ++r) f[r] += sum[r] / tokens;
    }
  }
  return costs;
}

// Whether the scales of the finest width are too small for F16; those of the others are larger.
bool needs_wide_scales(const at::Tensor& weights, const ChannelGroups& channels, const Recipe& recipe, ThreadPool& pool) {
  ColumnGroups groups;
  groups.bits_of_group.assign(static_cast<std::size_t>(channels.groups()), static_cast<std::uint8_t>(recipe.levels.back()));
  for (std::int32_t group : channels.group_of_channel()) groups.group_of_column.push_back(static_cast<std::uint16_t>(group));
  return choose_scale_dtype(weights, groups, recipe.clips(), pool) != DType::F16;
}

// Experts that no gradient reached get the mean of the layer's other experts' matrices of their kind.
void fill_unseen_sensitivities(const Config& config, std::int64_t layer, LayerCosts& costs) {
  const std::vector<LayerTensor> tensors = layer_tensors(config, layer);
  std::map<Role, std::pair<double, double>> sums;  // of sensitivities, and rows
  std::vector<const LayerTensor*> unseen;
  for (const LayerTensor& tensor : tensors) {
    if (!tensor.linear() || tensor.expert < 0) continue;
    const std::vector<double>& f = costs[tensor.name].sensitivity;
    if (std::all_of(f.begin(), f.end(), [](double value) { return value == 0; })) {
      unseen.push_back(&tensor);
    } else {
      auto& [sum, rows] = sums[tensor.rule->role];
      for (double value : f) sum += value, ++rows;
    }
  }
  for (const LayerTensor* tensor : unseen) {
    const auto& [sum, rows] = sums[tensor->rule->role];
    costs[tensor->name].sensitivity.assign(static_cast<std::size_t>(tensor->shape[0]), rows > 0 ? sum / rows : 0);
  }
}

// What the widths and zeros of a matrix would cost, for one way to group its channels. `matrix` has the sensitivities.
void cost_matrix(const at::Tensor& w, const SitePlan& site, const Recipe& recipe, MatrixCosts& matrix, ThreadPool& pool) {
  if (recipe.quantize) matrix.column_errors = column_errors(w, site.channels, matrix.sensitivity, pool, recipe.levels, recipe.clip);
  if (recipe.target_bpw && !recipe.codes_scales()) matrix.wide_scales = needs_wide_scales(w, site.channels, recipe, pool);
  if (recipe.sparsity > 0 && !recipe.prune_m) matrix.scores = score_histogram(w, site.channels, matrix.sensitivity, site.inverse_diagonal, pool, 1);
}

}  // namespace

at::Tensor matrix_values(const Model& model, std::int64_t layer, std::string_view rule) {
  const std::string name = layer_tensor_name(architecture(model.config.architecture), layer, rule);
  return to_torch(model.tensors.at(name), name, at::kFloat);
}

std::vector<std::vector<at::Tensor>> walk_forward(const ForwardPass& dense, const Calibration& calibration,
                                                  std::span<const Recipe> recipes, std::vector<std::vector<LayerPlan>>& plans,
                                                  ThreadPool& pool, const PlanProgress& advance, RunJournal* journal, const WorkingMemory& memory) {
  const Recipe& recipe = recipes.front();  // they differ in the groups alone
  Walk walk(dense, calibration, pool, memory);
  const std::int64_t back = std::min(walk.windows(), kSensitivityWindows);
  const at::ScalarType kept_type = dense.type() == ComputeType::BFloat16 ? at::kBFloat16 : at::kFloat;
  std::vector<std::vector<at::Tensor>> states;
  auto keep = [&](const std::vector<at::Tensor>& hidden, at::ScalarType type) {
    states.emplace_back();
    for (std::int64_t w = 0; w < back; ++w) states.back().push_back(memory.keep(hidden[static_cast<std::size_t>(w)], type));
  };
  const auto stage = [&](std::int64_t l) { advance(layer_stage("measuring", l, dense.layers()), kPlanForwardShare / static_cast<double>(dense.layers())); };
  const std::int64_t first = journal ? journal->measured() : 0;
  if (first > 0) {
    // Of the windows that are walked back the inputs of the finished layers are needed once more.
    std::vector<at::Tensor> hidden(walk.hidden().begin(), walk.hidden().begin() + back);
    for (std::int64_t l = 0; l < first; ++l) {
      plans.front()[static_cast<std::size_t>(l)] = journal->measured(l);
      keep(hidden, kept_type);
      const LayerWeights weights = dense.load_layer(l);
      pool.for_each(back, [&](std::int64_t w) {
        at::Tensor& state = hidden[static_cast<std::size_t>(w)];
        state = dense.run_layer(weights, state, [](InputPlace, const at::Tensor&) {});
      });
    }
    // Those of all windows behind the last one are in the journal, where a layer is left to read them.
    walk.restore(first < dense.layers() ? journal->take_states() : std::move(hidden));
  }
  for (std::int64_t l = first; l < dense.layers(); ++l) {
    keep(walk.hidden(), kept_type);
    const LayerWeights weights = dense.load_layer(l);
    const auto layer = static_cast<std::size_t>(l);
    const bool hessians = recipe.needs_information() || recipe.sparsity > 0;
    const auto batches = place_batches(dense.model().config, l, hessians ? memory.hessians : 0);
    std::set<InputPlace> seen;
    for (std::size_t b = 0; b < batches.size(); ++b) {
      std::map<InputPlace, SiteSums> sums;
      const auto add = [&](InputPlace place, std::span<const at::Tensor> inputs) {
        if (std::binary_search(batches[b].begin(), batches[b].end(), place)) sums[place].add(inputs, recipe, walk.tokens(), pool);
      };
      walk.observe(weights, add, b + 1 == batches.size());
      for (auto& [place, site] : sums) {
        const SiteFacts facts = measure_site(site, recipe, pool);
        for (std::size_t c = 0; c < recipes.size(); ++c) plans[c][layer].places[place] = group_site(facts, recipes[c], place_number(l, place), pool);
        site = {};
        seen.insert(place);
      }
    }
    if (batches.empty()) walk.advance(weights);
    std::vector<std::pair<InputPlace, std::int64_t>> unseen;
    for (const LayerTensor& tensor : layer_tensors(dense.model().config, l)) {
      if (tensor.linear() && !seen.contains(tensor.place())) unseen.emplace_back(tensor.place(), tensor.shape[1]);
    }
    for (const auto& [place, channels] : unseen) {
      for (std::size_t c = 0; c < recipes.size(); ++c) plan_unseen(plans[c][layer], place, channels, recipes[c], pool);
    }
    if (journal) journal->keep_measured(l, plans.front()[layer], l + 1 < dense.layers() ? walk.hidden() : std::vector<at::Tensor>{});
    stage(l);
  }
  keep(walk.hidden(), at::kFloat);
  return states;
}

std::vector<std::vector<LayerCosts>> walk_back(const ForwardPass& dense, const Calibration& calibration, std::span<const Recipe> recipes,
                                               const std::vector<std::vector<LayerPlan>>& plans, std::vector<std::vector<at::Tensor>> states,
                                               ThreadPool& pool, const PlanProgress& advance, RunJournal* journal) {
  const auto stage = [&](std::int64_t l) { advance(layer_stage("sensitivity of", l, dense.layers()), kPlanBackwardShare / static_cast<double>(dense.layers())); };
  std::int64_t last = dense.layers() - 1;
  std::vector<std::vector<LayerCosts>> costs(recipes.size(), std::vector<LayerCosts>(plans.front().size()));
  std::vector<at::Tensor> gradients(states.back().size());
  if (journal && journal->walked_back() > 0) {
    const std::int64_t end = last - journal->walked_back();
    gradients = journal->take_states();
    states.pop_back();
    for (; last > end; --last) {
      costs.front()[static_cast<std::size_t>(last)] = journal->costs(last);
      states.pop_back();
    }
  } else {
    pool.for_each(static_cast<std::int64_t>(gradients.size()), [&](std::int64_t w) {
      const auto unit = static_cast<std::size_t>(w);
      gradients[unit] = dense.loss_gradient(states.back()[unit], calibration.windows[unit]);
    });
    states.pop_back();
  }
  for (std::int64_t l = last; l >= 0; --l) {
    const auto layer = static_cast<std::size_t>(l);
    costs.front()[layer] = walk_layer_back(dense, dense.load_layer(l), states.back(), gradients, pool);
    states.pop_back();
    fill_unseen_sensitivities(dense.model().config, l, costs.front()[layer]);
    for (std::size_t c = 1; c < recipes.size(); ++c) costs[c][layer] = costs.front()[layer];
    for (const LayerTensor& rule : layer_tensors(dense.model().config, l)) {
      if (!rule.linear()) continue;
      const at::Tensor w = matrix_values(dense.model(), l, rule.name);
      for (std::size_t c = 0; c < recipes.size(); ++c) {
        cost_matrix(w, plans[c][layer].places.at(rule.place()), recipes[c], costs[c][layer][std::string(rule.name)], pool);
      }
    }
    if (journal) journal->keep_costs(l, costs.front()[layer], l > 0 ? gradients : std::vector<at::Tensor>{});
    stage(l);
  }
  return costs;
}

}  // namespace miq
