// A layer's second moments are reduced to what the plan needs (energies, diagonal of the inverse, groups) before the next layer is walked; of the
// way back only vectors stay.
#include "miq/compress/plan_walk.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "miq/compress/column_squares.h"
#include "miq/compress/exact_sums.h"
#include "miq/compress/place_error.h"
#include "miq/compress/plan_record.h"
#include "miq/compress/plan_site.h"
#include "miq/compress/predicted_loss.h"
#include "miq/compress/quantizer.h"
#include "miq/compress/rank_journal.h"
#include "miq/compress/rank_sums.h"
#include "miq/compress/walk.h"

namespace miq {
namespace {

// Windows go one after another on a GPU.
void for_windows(const ForwardPass& forward, std::int64_t count, ThreadPool& pool, const std::function<void(std::int64_t)>& work) {
  if (!forward.device_form()) return pool.for_each(count, work);
  for (std::int64_t w = 0; w < count; ++w) work(w);
}

// Sums over this rank's windows of the squared gradients, each window's rounded for a sum that is exact.
LayerCosts walk_layer_back(const ForwardPass& dense, const LayerWeights& weights, std::span<const at::Tensor> inputs,
                           std::vector<at::Tensor>& gradients, ThreadPool& pool) {
  std::vector<std::map<std::string, std::vector<double>, std::less<>>> squares(inputs.size());
  for_windows(dense, static_cast<std::int64_t>(inputs.size()), pool, [&](std::int64_t unit) {
    const auto w = static_cast<std::size_t>(unit);
    auto observe = [&](std::string_view rule, const at::Tensor& gradient) {
      squares[w][std::string(rule)] = column_squares(gradient);
    };
    gradients[w] = dense.backward_layer(weights, inputs[w].to(dense.device(), at::kFloat), gradients[w].to(dense.device()), observe);
  });
  LayerCosts costs;
  for (const auto& window : squares) {
    for (const auto& [rule, sum] : window) {
      std::vector<double>& f = costs[rule].sensitivity;
      f.resize(sum.size());
      for (std::size_t r = 0; r < f.size(); ++r) f[r] += to_24_bits(sum[r]);
    }
  }
  return costs;
}

// Sums of all ranks, in all; then means over `tokens`.
void sum_sensitivities(Ranks& ranks, const std::vector<LayerTensor>& tensors, double tokens, LayerCosts& costs) {
  std::vector<double> all;
  for (const LayerTensor& tensor : tensors) {
    if (!tensor.linear()) continue;
    std::vector<double>& f = costs[std::string(tensor.name)].sensitivity;
    f.resize(static_cast<std::size_t>(tensor.shape[0]));
    all.insert(all.end(), f.begin(), f.end());
  }
  ranks.sum(all);
  for (double& value : all) value = to_24_bits(value) / tokens;
  auto next = all.begin();
  for (const LayerTensor& tensor : tensors) {
    if (!tensor.linear()) continue;
    std::vector<double>& f = costs[std::string(tensor.name)].sensitivity;
    std::copy_n(next, f.size(), f.begin());
    next += static_cast<std::ptrdiff_t>(f.size());
  }
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

// A gradient tells what a small change of an output costs. Where a softmax is saturated it is nearly none, and what is then taken away is no small
// change: rows that look free would lose all their weights (a layer of SmolLM2 lost 14 % of its queries' energy so). They cost at least this share of
// the matrix' mean.
constexpr double kLeastSensitivity = 0.2;

void raise_small_sensitivities(LayerCosts& costs) {
  for (auto& [rule, matrix] : costs) {
    std::vector<double>& f = matrix.sensitivity;
    const double least = kLeastSensitivity * std::accumulate(f.begin(), f.end(), 0.0) / static_cast<double>(std::max<std::size_t>(1, f.size()));
    for (double& value : f) value = std::max(value, least);
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
                                                  ThreadPool& pool, const PlanProgress& advance, RankJournal* journal, const WorkingMemory& memory,
                                                  Ranks& ranks, std::int64_t windows, const ComputeDevice& where) {
  const Recipe& recipe = recipes.front();  // they differ in the groups alone
  Walk walk(dense, calibration, pool, memory);
  const std::int64_t back = share_of(ranks, std::min(windows, kSensitivityWindows));  // of this rank
  const std::int64_t tokens = windows * walk.tokens() / walk.windows();
  const at::ScalarType kept_type = dense.type() == ComputeType::BFloat16 ? at::kBFloat16 : at::kFloat;
  std::vector<std::vector<at::Tensor>> states;
  auto keep = [&](const std::vector<at::Tensor>& hidden, at::ScalarType type) {
    states.emplace_back();
    for (std::int64_t w = 0; w < back; ++w) states.back().push_back(memory.keep(hidden[static_cast<std::size_t>(w)].to(at::kCPU), type));
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
      for_windows(dense, back, pool, [&](std::int64_t w) {
        at::Tensor& state = hidden[static_cast<std::size_t>(w)];
        state = dense.run_layer(weights, state.to(dense.device()), [](InputPlace, const at::Tensor&) {});
      });
    }
    // Those of all windows behind the last one are in the journal, where a layer is left to read them.
    if (first < dense.layers()) {
      journal->take_states([&](std::int64_t w, const at::Tensor& state) { walk.restore(w, state); });
    } else {
      for (std::int64_t w = 0; w < back; ++w) walk.restore(w, hidden[static_cast<std::size_t>(w)]);
    }
  }
  for (std::int64_t l = first; l < dense.layers(); ++l) {
    keep(walk.hidden(), kept_type);
    const LayerWeights weights = dense.load_layer(l);
    const auto layer = static_cast<std::size_t>(l);
    const bool hessians = recipe.needs_information() || recipe.sparsity > 0;
    const auto batches = place_batches(dense.model().config, l, hessians ? memory.hessians : 0);
    std::set<InputPlace> seen;
    std::map<InputPlace, std::int64_t> widths;
    for (const LayerTensor& tensor : layer_tensors(dense.model().config, l)) {
      if (tensor.linear()) widths[tensor.place()] = tensor.shape[1];
    }
    for (std::size_t b = 0; b < batches.size(); ++b) {
      std::map<InputPlace, SiteSums> sums;
      const auto add = [&](InputPlace place, std::span<const at::Tensor> inputs) {
        if (!std::binary_search(batches[b].begin(), batches[b].end(), place)) return;
        naming([&] { return place_name(dense.model().config, l, place); }, [&] { sums[place].add(place, inputs, recipe, tokens, ranks, pool, where); });
      };
      walk.observe(weights, add, b + 1 == batches.size());
      const std::map<InputPlace, int> owners = owners_of(ranks, batches[b], widths);
      sum_places(ranks, batches[b], owners, widths, recipe, sums, where);
      RecordWriter found;  // for the other ranks
      for (auto& [place, site] : sums) {
        seen.insert(place);
        if (owners.at(place) != ranks.rank()) continue;
        naming([&, &place = place] { return place_name(dense.model().config, l, place); }, [&, &place = place, &site = site] {
          const SiteFacts facts = measure_site(site, recipe, pool, where);
          for (std::size_t c = 0; c < recipes.size(); ++c) plans[c][layer].places[place] = group_site(facts, recipes[c], place_number(l, place), pool, where);
        });
        for (std::size_t c = 0; !ranks.alone() && c < recipes.size(); ++c) write_site(found, plans[c][layer].places[place]);
        site = {};
      }
      if (ranks.alone()) continue;
      std::vector<RecordReader> all = exchange_records(ranks, found);
      for (const auto& [place, site] : sums) {
        const int owner = owners.at(place);
        for (std::size_t c = 0; owner != ranks.rank() && c < recipes.size(); ++c) {
          plans[c][layer].places[place] = read_site(all[static_cast<std::size_t>(owner)], static_cast<std::size_t>(widths.at(place)), recipes[c]);
        }
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
    if (journal) journal->keep_measured(l, plans.front()[layer], l + 1 < dense.layers() ? states_of(walk.hidden()) : StateSource{});
    stage(l);
  }
  keep(walk.hidden(), at::kFloat);
  return states;
}

std::vector<std::vector<LayerCosts>> walk_back(const ForwardPass& dense, const Calibration& calibration, std::span<const Recipe> recipes,
                                               const std::vector<std::vector<LayerPlan>>& plans, std::vector<std::vector<at::Tensor>> states,
                                               ThreadPool& pool, const PlanProgress& advance, RankJournal* journal, Ranks& ranks, std::int64_t windows) {
  const auto stage = [&](std::int64_t l) { advance(layer_stage("sensitivity of", l, dense.layers()), kPlanBackwardShare / static_cast<double>(dense.layers())); };
  std::int64_t last = dense.layers() - 1;
  std::vector<std::vector<LayerCosts>> costs(recipes.size(), std::vector<LayerCosts>(plans.front().size()));
  std::vector<at::Tensor> gradients(states.back().size());
  const double tokens = static_cast<double>(calibration.windows.front().size()) * static_cast<double>(std::min(windows, kSensitivityWindows));
  if (journal && journal->walked_back() > 0) {
    const std::int64_t end = last - journal->walked_back();
    journal->take_states([&](std::int64_t w, at::Tensor state) { gradients.at(static_cast<std::size_t>(w)) = std::move(state); });
    states.pop_back();
    for (; last > end; --last) {
      costs.front()[static_cast<std::size_t>(last)] = journal->costs(last);
      states.pop_back();
    }
  } else {
    for_windows(dense, static_cast<std::int64_t>(gradients.size()), pool, [&](std::int64_t w) {
      const auto unit = static_cast<std::size_t>(w);
      gradients[unit] = dense.loss_gradient(states.back()[unit].to(dense.device()), calibration.windows[unit]);
    });
    states.pop_back();
  }
  for (std::int64_t l = last; l >= 0; --l) {
    const auto layer = static_cast<std::size_t>(l);
    costs.front()[layer] = walk_layer_back(dense, dense.load_layer(l), states.back(), gradients, pool);
    sum_sensitivities(ranks, layer_tensors(dense.model().config, l), tokens, costs.front()[layer]);
    states.pop_back();
    fill_unseen_sensitivities(dense.model().config, l, costs.front()[layer]);
    raise_small_sensitivities(costs.front()[layer]);
    for (std::size_t c = 1; c < recipes.size(); ++c) costs[c][layer] = costs.front()[layer];
    std::vector<LayerTensor> linears = layer_tensors(dense.model().config, l);
    std::erase_if(linears, [](const LayerTensor& rule) { return !rule.linear(); });
    std::vector<double> sizes;
    for (const LayerTensor& rule : linears) sizes.push_back(static_cast<double>(rule.shape[0]) * static_cast<double>(rule.shape[1]));
    const std::vector<int> owners = spread_jobs(sizes, ranks.size());
    RecordWriter found;  // for the other ranks
    for (std::size_t i = 0; i < linears.size(); ++i) {
      if (owners[i] != ranks.rank()) continue;
      const at::Tensor w = matrix_values(dense.model(), l, linears[i].name);
      for (std::size_t c = 0; c < recipes.size(); ++c) {
        MatrixCosts& matrix = costs[c][layer][std::string(linears[i].name)];
        naming([&] { return layer_tensor_name(architecture(dense.model().config.architecture), l, linears[i].name); },
               [&] { cost_matrix(w, plans[c][layer].places.at(linears[i].place()), recipes[c], matrix, pool); });
        if (!ranks.alone()) write_matrix_costs(found, matrix);
      }
    }
    if (!ranks.alone()) {
      std::vector<RecordReader> all = exchange_records(ranks, found);
      for (std::size_t i = 0; i < linears.size(); ++i) {
        for (std::size_t c = 0; owners[i] != ranks.rank() && c < recipes.size(); ++c) {
          costs[c][layer][std::string(linears[i].name)] = read_matrix_costs(all[static_cast<std::size_t>(owners[i])], linears[i], recipes[c]);
        }
      }
    }
    if (journal) journal->keep_costs(l, costs.front()[layer], l > 0 ? states_of(gradients) : StateSource{});
    stage(l);
  }
  return costs;
}

}  // namespace miq
