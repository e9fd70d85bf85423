// A window is a unit of the walks. Gradients of weights are sums over windows: each tile of a matrix adds a batch's windows in their
// order, so that no more than one layer's gradients and one batch's inputs are held, and the sums do not depend on threads.
#include "miq/compress/structure_scores.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string>

#include "miq/base/error.h"
#include "miq/compress/plan.h"
#include "miq/compress/structure_parts.h"
#include "miq/compress/walk.h"

namespace miq {
namespace {

using Advance = std::function<void(std::string_view, double)>;

constexpr std::int64_t kBatchTokens = 4096;  // whose inputs and gradients are held for sums over windows
constexpr std::int64_t kTileRows = 256;

// What one window shows of a layer on the way back.
struct Seen {
  std::map<InputPlace, at::Tensor> inputs;
  std::map<std::string, at::Tensor, std::less<>> gradients;  // of outputs, by rule name
};

void add(std::vector<double>& sums, const at::Tensor& values) {
  const at::Tensor plain = values.contiguous();
  const double* from = plain.const_data_ptr<double>();
  sums.resize(std::max(sums.size(), static_cast<std::size_t>(plain.numel())));
  for (std::int64_t i = 0; i < plain.numel(); ++i) sums[static_cast<std::size_t>(i)] += from[i];
}

// One window's sums over tokens of (sum_j a_j g_j)^2.
LayerScores fisher_of(const ForwardPass& dense, const LayerWeights& weights, const Seen& seen) {
  const Config& config = dense.model().config;
  const LayerConfig& sizes = config.layers[static_cast<std::size_t>(weights.index)];
  LayerScores scores;
  for (const LayerTensor& tensor : layer_tensors(config, weights.index)) {
    const Role role = tensor.rule->role;
    if (!tensor.linear() || (role != Role::AttentionOutput && role != Role::Down)) continue;
    const at::Tensor& gradient = seen.gradients.at(tensor.name);
    const at::Tensor& w = weights.tensor(tensor.name);
    const at::Tensor change = gradient.to(w.scalar_type()).matmul(w).to(at::kFloat) * seen.inputs.at(tensor.place()).to(at::kFloat);
    const bool heads = role == Role::AttentionOutput;
    const at::Tensor parts = heads ? change.view({change.size(0), sizes.kv_heads, -1}).sum(2) : change;
    add(heads ? scores.groups : scores.channels, at::sum(parts.square(), {0}, false, at::kDouble));
  }
  return scores;
}

// Gradients of a layer's matrices, summed over windows.
class WeightGradients {
 public:
  WeightGradients(const Config& config, std::int64_t layer, ThreadPool& pool)
      : sizes_(config.layers[static_cast<std::size_t>(layer)]), pool_(pool) {
    for (const LayerTensor& tensor : layer_tensors(config, layer)) {
      if (!tensor.linear()) continue;
      matrices_.push_back(tensor);
      sums_.push_back(at::zeros(tensor.shape, at::kFloat));
    }
  }

  void add(std::vector<Seen>& batch) {
    std::vector<std::pair<std::size_t, std::int64_t>> tiles;
    for (std::size_t m = 0; m < matrices_.size(); ++m) {
      for (std::int64_t row = 0; row < matrices_[m].shape[0]; row += kTileRows) tiles.emplace_back(m, row);
    }
    pool_.for_each(static_cast<std::int64_t>(tiles.size()), [&](std::int64_t unit) {
      use_single_threaded_torch();
      const at::NoGradGuard no_grad;
      const auto [m, row] = tiles[static_cast<std::size_t>(unit)];
      const LayerTensor& matrix = matrices_[m];
      const std::int64_t rows = std::min(kTileRows, matrix.shape[0] - row);
      at::Tensor tile = sums_[m].narrow(0, row, rows);
      for (const Seen& seen : batch) {
        const at::Tensor gradient = seen.gradients.at(matrix.name).narrow(1, row, rows).to(at::kFloat);
        tile.addmm_(gradient.t(), seen.inputs.at(matrix.place()).to(at::kFloat));
      }
    });
    batch.clear();
  }

  // Sums of |w dL/dw| over each part's weights.
  LayerScores taylor(const LayerWeights& weights) const {
    std::vector<std::vector<double>> found(matrices_.size());
    std::vector<Ownership> owners;
    for (const LayerTensor& matrix : matrices_) owners.push_back(ownership(matrix.rule->role, sizes_));
    pool_.for_each(static_cast<std::int64_t>(matrices_.size()), [&](std::int64_t unit) {
      const auto m = static_cast<std::size_t>(unit);
      if (owners[m].of == Ownership::Of::Nobody) return;
      use_single_threaded_torch();
      const at::NoGradGuard no_grad;
      const at::Tensor change = (weights.tensor(matrices_[m].name).to(at::kFloat) * sums_[m]).abs();
      miq::add(found[m], at::sum(change, {owners[m].rows ? 1 : 0}, false, at::kDouble));
    });
    LayerScores scores;
    scores.groups.resize(static_cast<std::size_t>(sizes_.kv_heads));
    scores.channels.resize(static_cast<std::size_t>(sizes_.mlp_width));
    for (std::size_t m = 0; m < matrices_.size(); ++m) {
      std::vector<double>& to = owners[m].of == Ownership::Of::HeadGroups ? scores.groups : scores.channels;
      for (std::size_t i = 0; i < found[m].size(); ++i) to[static_cast<std::size_t>(owners[m].owner[i])] += found[m][i];
    }
    return scores;
  }

 private:
  const LayerConfig& sizes_;
  ThreadPool& pool_;
  std::vector<LayerTensor> matrices_;
  std::vector<at::Tensor> sums_;
};

LayerScores walk_layer_back(const ForwardPass& dense, std::int64_t layer, const std::vector<at::Tensor>& inputs,
                            std::vector<at::Tensor>& gradients, RemovalScore score, ThreadPool& pool) {
  const LayerWeights weights = dense.load_layer(layer);
  const auto windows = static_cast<std::int64_t>(inputs.size());
  const std::int64_t batch = std::max<std::int64_t>(1, kBatchTokens / inputs.front().size(0));
  std::optional<WeightGradients> sums;
  if (score == RemovalScore::Taylor) sums.emplace(dense.model().config, layer, pool);
  LayerScores scores;
  for (std::int64_t first = 0; first < windows; first += batch) {
    const std::int64_t count = std::min(batch, windows - first);
    std::vector<Seen> seen(static_cast<std::size_t>(count));
    std::vector<LayerScores> of_window(static_cast<std::size_t>(count));
    pool.for_each(count, [&](std::int64_t unit) {
      const auto w = static_cast<std::size_t>(first + unit);
      Seen& mine = seen[static_cast<std::size_t>(unit)];
      gradients[w] = dense.backward_layer(
          weights, inputs[w].to(at::kFloat), gradients[w],
          [&](std::string_view rule, const at::Tensor& gradient) { mine.gradients.emplace(rule, gradient.contiguous()); },
          [&](InputPlace place, const at::Tensor& input) { mine.inputs.emplace(place, input.contiguous()); });
      if (score != RemovalScore::Fisher) return;
      const at::NoGradGuard no_grad;
      of_window[static_cast<std::size_t>(unit)] = fisher_of(dense, weights, mine);
      mine = {};
    });
    if (sums) {
      sums->add(seen);
      continue;
    }
    for (const LayerScores& window : of_window) {
      scores.groups.resize(window.groups.size());
      scores.channels.resize(window.channels.size());
      for (std::size_t i = 0; i < window.groups.size(); ++i) scores.groups[i] += window.groups[i];
      for (std::size_t i = 0; i < window.channels.size(); ++i) scores.channels[i] += window.channels[i];
    }
  }
  return sums ? sums->taylor(weights) : scores;
}

}  // namespace

std::vector<LayerScores> measure_scores(const ForwardPass& dense, const Calibration& calibration, RemovalScore score, ThreadPool& pool,
                                        const Advance& advance) {
  Calibration few;
  const std::size_t windows = std::min(calibration.windows.size(), static_cast<std::size_t>(kSensitivityWindows));
  few.windows.assign(calibration.windows.begin(), calibration.windows.begin() + static_cast<std::ptrdiff_t>(windows));
  Walk walk(dense, few, pool);
  const at::ScalarType kept = dense.type() == ComputeType::BFloat16 ? at::kBFloat16 : at::kFloat;
  std::vector<std::vector<at::Tensor>> states;
  const std::int64_t layers = dense.layers();
  for (std::int64_t l = 0; l < layers; ++l) {
    states.emplace_back();
    for (const at::Tensor& state : walk.hidden()) states.back().push_back(state.to(kept));
    walk.advance(dense.load_layer(l));
    advance(layer_stage("measuring", l, layers), 0.3 / static_cast<double>(layers));
  }
  std::vector<at::Tensor> gradients(windows);
  pool.for_each(static_cast<std::int64_t>(windows), [&](std::int64_t unit) {
    const auto w = static_cast<std::size_t>(unit);
    gradients[w] = dense.loss_gradient(walk.hidden(unit), few.windows[w]);
  });
  std::vector<LayerScores> scores(static_cast<std::size_t>(layers));
  for (std::int64_t l = layers - 1; l >= 0; --l) {
    const auto layer = static_cast<std::size_t>(l);
    if (!dense.model().config.layers[layer].identity) scores[layer] = walk_layer_back(dense, l, states.back(), gradients, score, pool);
    for (const std::vector<double>* values : {&scores[layer].groups, &scores[layer].channels}) {
      for (const double value : *values) {
        if (!std::isfinite(value)) throw Error("structured: the loss of a calibration window has no finite gradient; try --dtype float32");
      }
    }
    states.pop_back();
    advance(layer_stage("scores of", l, layers), 0.7 / static_cast<double>(layers));
  }
  return scores;
}

std::vector<double> measure_turns(const ForwardPass& dense, const Calibration& calibration, ThreadPool& pool, const Advance& advance) {
  Walk walk(dense, calibration, pool);
  std::vector<double> turns;
  for (std::int64_t l = 0; l < dense.layers(); ++l) {
    const std::vector<at::Tensor> before = walk.hidden();
    walk.advance(dense.load_layer(l));
    std::vector<double> cosines(before.size());
    pool.for_each(static_cast<std::int64_t>(before.size()), [&](std::int64_t unit) {
      use_single_threaded_torch();
      const at::NoGradGuard no_grad;
      const auto w = static_cast<std::size_t>(unit);
      const at::Tensor x = before[w].to(at::kDouble), y = walk.hidden(unit).to(at::kDouble);
      const at::Tensor cosine = (x * y).sum(1) / (x.square().sum(1) * y.square().sum(1)).sqrt().clamp_min(1e-300);
      cosines[w] = cosine.sum().item<double>();
    });
    double sum = 0;
    for (const double cosine : cosines) sum += cosine;
    turns.push_back(1 - sum / static_cast<double>(walk.tokens()));
    if (!std::isfinite(turns.back()))
      throw Error("structured: the residual stream of a calibration window holds NaN or infinity; try --dtype float32");
    advance(layer_stage("measuring", l, dense.layers()), 1.0 / static_cast<double>(dense.layers()));
  }
  return turns;
}

}  // namespace miq
