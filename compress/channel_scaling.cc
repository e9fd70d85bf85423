// Layer by layer: all windows pass through the layer's old weights, which leave behind them what the new ones will. Then each site's
// matrices are tried with every alpha on the grid, and changed.
#include "miq/compress/channel_scaling.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "miq/compress/channel_statistics.h"
#include "miq/compress/dense.h"
#include "miq/compress/grouping.h"
#include "miq/compress/predicted_loss.h"
#include "miq/compress/walk.h"

namespace miq {
namespace {

constexpr int kSteps = 10;  // alpha = 0, 1 / kSteps, …, 1

// Sums over all tokens and experts of what a site's linears read.
struct Energies {
  std::vector<double> mean_abs, second_moment;
};

Energies energies_of(const std::map<InputPlace, ChannelStatistics>& places, InputSite site, std::int64_t expert, bool all) {
  ChannelStatistics sum;
  for (const auto& [place, statistics] : places) {
    if (place.site != site || (!all && place.expert != expert)) continue;
    if (sum.tokens == 0) {
      sum = statistics;
      continue;
    }
    sum.tokens += statistics.tokens;
    for (std::size_t j = 0; j < sum.sum_abs.size(); ++j) {
      sum.sum_abs[j] += statistics.sum_abs[j];
      sum.sum_squares[j] += statistics.sum_squares[j];
    }
  }
  return {sum.mean_abs(), sum.second_moment()};
}

// Of channels that share a scale (query heads of one value head), the mean; `size` channels a head, each `shared` times in a row.
std::vector<double> mean_of_shared(const std::vector<double>& values, std::int64_t size, std::int64_t shared) {
  std::vector<double> result(values.size());
  const auto heads = static_cast<std::int64_t>(values.size()) / size;
  for (std::int64_t first = 0; first < heads; first += shared) {
    for (std::int64_t i = 0; i < size; ++i) {
      double sum = 0;
      for (std::int64_t head = first; head < first + shared; ++head) sum += values[static_cast<std::size_t>(head * size + i)];
      for (std::int64_t head = first; head < first + shared; ++head) result[static_cast<std::size_t>(head * size + i)] = sum / static_cast<double>(shared);
    }
  }
  return result;
}

// mean_abs^alpha over its geometric mean. Silent channels count as the least of those that are heard.
std::vector<float> scales_of(const std::vector<double>& mean_abs, double alpha) {
  double largest = 0, logs = 0;
  for (double value : mean_abs) largest = std::max(largest, value);
  std::vector<float> scales(mean_abs.size(), 1.0f);
  if (!(largest > 0) || alpha == 0) return scales;
  const auto log_of = [&](double value) { return alpha * std::log(std::max(value, 1e-4 * largest)); };
  for (double value : mean_abs) logs += log_of(value) / static_cast<double>(mean_abs.size());
  for (std::size_t j = 0; j < scales.size(); ++j) scales[j] = static_cast<float>(std::exp(log_of(mean_abs[j]) - logs));
  return scales;
}

at::Tensor row_of(const std::vector<float>& values) {
  at::Tensor row = at::empty({static_cast<std::int64_t>(values.size())}, at::kFloat);
  std::copy(values.begin(), values.end(), row.data_ptr<float>());
  return row;
}

class Scaler {
 public:
  Scaler(const Model& model, const Recipe& recipe, ThreadPool& pool, const WorkingMemory& memory)
      : recipe_(recipe), pool_(pool), memory_(memory), table_(architecture(model.config.architecture)) {
    result_.model = model;
    result_.record = Json::array();
  }

  void scale_layer(std::int64_t layer, const std::map<InputPlace, ChannelStatistics>& places) {
    layer_ = layer;
    const Config& config = result_.model.config;
    if (config.layers[static_cast<std::size_t>(layer)].identity) return;
    record_ = Json{{"layer", layer}};
    if (config.norm_first && config.norm != NormKind::FusedRms) {
      scale_norm(Role::InputNorm, InputSite::Attention, energies_of(places, InputSite::Attention, -1, true),
                 {Role::Query, Role::Key, Role::Value, Role::QueryKeyValue});
      scale_norm(Role::MlpNorm, InputSite::Mlp, energies_of(places, InputSite::Mlp, -1, true),
                 {Role::Gate, Role::Up, Role::ExpertGate, Role::ExpertUp, Role::SharedGate, Role::SharedUp, Role::Router, Role::SharedRouter});
    }
    scale_values(energies_of(places, InputSite::AttentionOutput, -1, false));
    if (config.gated_mlp || config.activation == Activation::Relu) {
      const LayerConfig& sizes = config.layers[static_cast<std::size_t>(layer)];
      if (sizes.experts == 0) scale_hidden(Role::Up, Role::Down, -1, energies_of(places, InputSite::MlpOutput, -1, false));
      for (std::int64_t expert = 0; expert < sizes.experts; ++expert) {
        scale_hidden(Role::ExpertUp, Role::ExpertDown, expert, energies_of(places, InputSite::MlpOutput, expert, false));
      }
      if (sizes.experts > 0 && sizes.shared_width > 0) {
        scale_hidden(Role::SharedUp, Role::SharedDown, -1, energies_of(places, InputSite::MlpOutput, -1, false));
      }
    }
    result_.record.push_back(std::move(record_));
  }

  ChannelScaling take() { return std::move(result_); }

 private:
  std::string name_of(std::string_view rule) const { return layer_tensor_name(table_, layer_, rule); }
  std::string name_of(Role role, bool bias, std::int64_t expert = -1) const {
    const std::string_view rule = rule_name(table_, role, bias);
    const std::string name = rule.empty() ? std::string() : name_of(expert_name(rule, expert));
    return result_.model.tensors.contains(name) ? name : std::string();
  }
  at::Tensor values(const std::string& name) const { return to_torch(result_.model.tensors.at(name), name, at::kFloat); }
  void replace(const std::string& name, const at::Tensor& with) {
    Tensor& tensor = result_.model.tensors.at(name);
    tensor = memory_.keep(dense_from_torch(with, replacement_dtype(tensor)));
  }

  // What the recipe's rounding would lose of the matrices, with these scales.
  double predicted(const std::vector<at::Tensor>& matrices, const std::vector<double>& energy, const std::vector<float>& scales) const {
    std::vector<double> scaled(energy);
    for (std::size_t j = 0; j < scaled.size(); ++j) scaled[j] /= static_cast<double>(scales[j]) * scales[j];
    GroupingOptions options;
    const auto channels = static_cast<std::int64_t>(energy.size());
    const bool planned = recipe_.method->layout == Layout::Groups;
    options.grouping = planned && recipe_.grouping != Grouping::Contiguous ? Grouping::Sensitivity : Grouping::Contiguous;
    options.group_size = std::min(channels, recipe_.auto_groups ? kGroupSizes[1] : recipe_.group_size);
    if (recipe_.n_groups) options.groups = std::min(channels, recipe_.n_groups);
    if (planned) options.run = recipe_.run();
    const ChannelGroups groups = group_channels(options, scaled, {}, pool_);
    const int level[] = {width()};
    double loss = 0;
    for (const at::Tensor& matrix : matrices) {
      const std::vector<double> errors = column_errors(matrix.mul(row_of(scales)), groups, {}, pool_, level, recipe_.clip);
      const at::Tensor squares = matrix.square().sum(at::IntArrayRef{0}, false, at::kDouble);
      const double* square = squares.const_data_ptr<double>();
      double lost = 0, whole = 0;
      for (std::size_t k = 0; k < errors.size(); ++k) {
        lost += errors[k] * scaled[static_cast<std::size_t>(groups.order[k])];
        whole += square[k] * energy[k];
      }
      loss += whole > 0 ? lost / whole : 0;
    }
    return loss;
  }

  int width() const {
    if (recipe_.width) return recipe_.width;
    const double target = recipe_.target ? *recipe_.target : recipe_.target_bpw ? *recipe_.target_bpw - 0.3 : 4;
    int nearest = recipe_.levels.empty() ? 4 : recipe_.levels.front();
    for (int level : recipe_.levels) nearest = std::abs(level - target) < std::abs(nearest - target) ? level : nearest;
    return nearest;
  }

  std::vector<float> choose(const std::vector<std::string>& names, const std::vector<double>& mean_abs, const std::vector<double>& energy, Json& entry) {
    std::vector<at::Tensor> matrices;
    for (const std::string& name : names) matrices.push_back(values(name));
    const double plain = predicted(matrices, energy, std::vector<float>(energy.size(), 1.0f));
    double best = 0, least = plain;
    const auto attempt = [&](double alpha) {
      const double loss = predicted(matrices, energy, scales_of(mean_abs, alpha));
      if (loss < least || recipe_.scaling_alpha) best = alpha, least = loss;
    };
    if (recipe_.scaling_alpha) {
      attempt(*recipe_.scaling_alpha);
    } else {
      for (int step = 1; step <= kSteps; ++step) attempt(static_cast<double>(step) / kSteps);
    }
    entry = {{"alpha", best}, {"predicted", plain > 0 ? least / plain : 1.0}};
    return scales_of(mean_abs, best);
  }

  void multiply_columns(const std::string& name, const at::Tensor& factors) { replace(name, values(name) * factors); }
  void divide_rows(const std::string& name, const at::Tensor& factors) {
    if (name.empty()) return;
    const at::Tensor w = values(name);
    replace(name, w.dim() == 2 ? w / factors.unsqueeze(1) : w / factors);
  }

  void scale_norm(Role norm, InputSite site, const Energies& energies, std::initializer_list<Role> readers) {
    const std::string gain_name = name_of(norm, false), bias_name = name_of(norm, true);
    std::vector<std::string> compressed, all;
    for (const LayerTensor& tensor : layer_tensors(result_.model.config, layer_)) {
      if (tensor.rule->bias || std::find(readers.begin(), readers.end(), tensor.rule->role) == readers.end()) continue;
      all.push_back(name_of(tensor.name));
      if (tensor.linear()) compressed.push_back(all.back());
    }
    if (gain_name.empty() || compressed.empty() || energies.mean_abs.empty()) return;
    std::vector<float> scales = choose(compressed, energies.mean_abs, energies.second_moment, record_[std::string(input_site_name(site))]);
    const at::Tensor gain = values(gain_name).clone();
    replace(gain_name, gain / row_of(scales));
    const at::Tensor rounded = values(gain_name);
    for (std::size_t j = 0; j < scales.size(); ++j) {
      const float before = gain.const_data_ptr<float>()[j], after = rounded.const_data_ptr<float>()[j];
      if (before != 0 && after != 0 && std::isfinite(before / after)) scales[j] = before / after;
    }
    const at::Tensor factors = row_of(scales);
    if (!bias_name.empty()) divide_rows(bias_name, factors);
    for (const std::string& name : all) multiply_columns(name, factors);
  }

  void scale_values(const Energies& energies) {
    const LayerConfig& sizes = result_.model.config.layers[static_cast<std::size_t>(layer_)];
    const std::string output = name_of(Role::AttentionOutput, false), fused = name_of(Role::QueryKeyValue, false);
    if (energies.mean_abs.empty() || output.empty()) return;
    const std::int64_t d = sizes.head_dim, shared = sizes.heads / sizes.kv_heads;
    const std::vector<float> scales =
        choose({output}, mean_of_shared(energies.mean_abs, d, shared), energies.second_moment, record_["attention_output"]);
    multiply_columns(output, row_of(scales));
    std::vector<float> rows;
    if (!fused.empty()) rows.assign(static_cast<std::size_t>((sizes.heads + sizes.kv_heads) * d), 1.0f);
    for (std::int64_t head = 0; head < sizes.kv_heads; ++head) rows.insert(rows.end(), scales.begin() + head * shared * d, scales.begin() + (head * shared + 1) * d);
    const at::Tensor factors = row_of(rows);
    const Role role = fused.empty() ? Role::Value : Role::QueryKeyValue;
    divide_rows(name_of(role, false), factors);
    divide_rows(name_of(role, true), factors);
  }

  void scale_hidden(Role up, Role down, std::int64_t expert, const Energies& energies) {
    const std::string output = name_of(down, false, expert), input = name_of(up, false, expert);
    if (energies.mean_abs.empty() || output.empty() || input.empty()) return;  // an expert that no token reached
    Json entry;
    const at::Tensor factors = row_of(choose({output}, energies.mean_abs, energies.second_moment, entry));
    multiply_columns(output, factors);
    divide_rows(input, factors);
    divide_rows(name_of(up, true, expert), factors);
    const bool mixture = result_.model.config.layers[static_cast<std::size_t>(layer_)].experts > 0;
    Json& place = record_["mlp_output"];
    mixture ? place.push_back(std::move(entry)) : void(place = std::move(entry));
  }

  const Recipe& recipe_;
  ThreadPool& pool_;
  const WorkingMemory& memory_;
  const Architecture& table_;
  ChannelScaling result_;
  std::int64_t layer_ = 0;
  Json record_;
};

}  // namespace

ChannelScaling scale_channels(const Model& model, const Calibration& calibration, const Recipe& recipe, ThreadPool& pool,
                              const WorkingMemory& memory, const std::function<void(double share)>& advance) {
  const at::NoGradGuard no_grad;
  const ForwardPass forward(model, recipe.compute);
  Walk walk(forward, calibration, pool, memory);
  Scaler scaler(model, recipe, pool, memory);
  for (std::int64_t l = 0; l < forward.layers(); ++l) {
    std::map<InputPlace, ChannelStatistics> places;
    walk.observe(
        forward.load_layer(l),
        [&](InputPlace place, std::span<const at::Tensor> inputs) {
          for (const at::Tensor& window : inputs) accumulate(places[place], window, pool);
        },
        true);
    scaler.scale_layer(l, places);
    if (advance) advance(1 / static_cast<double>(forward.layers()));
  }
  return scaler.take();
}

}  // namespace miq
