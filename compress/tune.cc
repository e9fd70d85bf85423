// A step takes a batch of windows forward through all layers, keeps what enters each layer, and walks back layer by layer; a layer's
// parameters are moved as soon as their gradient is there, since nothing in this step reads them again.
#include "miq/compress/tune.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "miq/base/error.h"
#include "miq/compress/rng.h"
#include "miq/compress/text.h"
#include "miq/compress/tune_parameter.h"
#include "miq/compress/walk.h"

namespace miq {
namespace {

constexpr double kLastRate = 0.1;        // share of the learning rate at the end

bool is_norm(Role role) {
  return role == Role::InputNorm || role == Role::MlpNorm || role == Role::QueryNorm || role == Role::KeyNorm || role == Role::FinalNorm;
}

class Tuner {
 public:
  Tuner(Model& model, const Calibration& calibration, const TuneOptions& options, ThreadPool& pool,
        const std::function<void(std::string_view, double)>& advance, const MessageFunction& message)
      : model_(model), calibration_(calibration), options_(options), pool_(pool), advance_(advance), message_(message) {
    const auto windows = static_cast<std::int64_t>(calibration.windows.size());
    if (windows < 2) throw UsageError("--tune needs at least two calibration windows: one to learn from and one to judge by");
    const std::int64_t every = std::min(options.held_out, windows);
    for (std::int64_t w = 0; w < windows; ++w) ((w + 1) % every == 0 ? held_out_ : training_).push_back(w);
    collect();
  }

  TuneResult run(const Model& dense) {
    teach(dense);
    student_.emplace(model_, options_.compute);
    const double before = held_out_loss();
    std::vector<double> history{before};
    double best = before;
    int kept = 0;
    note(0, before);
    const std::int64_t steps = (static_cast<std::int64_t>(training_.size()) + options_.batch - 1) / options_.batch;
    for (int epoch = 1; epoch <= options_.epochs; ++epoch) {
      shuffle(epoch);
      double sum = 0;
      for (std::int64_t s = 0; s < steps; ++s) {
        const std::size_t first = static_cast<std::size_t>(s * options_.batch);
        const std::span<const std::int64_t> batch = std::span(training_).subspan(first, std::min<std::size_t>(static_cast<std::size_t>(options_.batch), training_.size() - first));
        const double done = static_cast<double>((epoch - 1) * steps + s) / static_cast<double>(options_.epochs * steps);
        sum += step(batch, 1 - (1 - kLastRate) * done);
        advance("tuning, epoch " + std::to_string(epoch) + " of " + std::to_string(options_.epochs), epoch_share() * 0.95 / static_cast<double>(steps));
      }
      const double loss = held_out_loss();
      advance("tuning, epoch " + std::to_string(epoch) + " of " + std::to_string(options_.epochs), epoch_share() * 0.05);
      history.push_back(loss);
      note(epoch, loss, sum / static_cast<double>(training_.size()));
      if (loss < best) {
        best = loss;
        kept = epoch;
        for_each([](TuneParameter& p) { p.keep(); });
      }
    }
    for_each([&](TuneParameter& p) {
      p.restore();
      p.store(model_.tensors.at(p.name()));
    });
    TuneResult result;
    result.statistics = {{"what", std::string(tune_name(options_.what))}, {"held_out_windows", held_out_.size()}, {"training_windows", training_.size()},
                         {"parameters", parameters()}, {"held_out_kl", history}, {"kept_epoch", kept}};
    result.summary = format("tuned %s: %lld values, divergence from the dense model on %zu windows kept out of it %.5f before, %.5f after (nats a position, epoch %d of %d kept)",
                            what_text(), static_cast<long long>(parameters()), held_out_.size(), before, best, kept, options_.epochs);
    return result;
  }

 private:
  double epoch_share() const { return 0.93 / options_.epochs; }
  void advance(const std::string& stage, double share) const {
    if (advance_) advance_(stage, share);
  }

  const char* what_text() const {
    return options_.what == Tune::Norms ? "the gains of the norms" : options_.what == Tune::Rows ? "the gains of the norms and of the rows" : "the gains of the norms and the scales";
  }

  void note(int epoch, double held_out, double training = 0) const {
    if (!message_) return;
    message_(epoch ? format("tuning, epoch %d: divergence from the dense model %.5f, on held-out windows %.5f", epoch, training, held_out)
                   : format("tuning: divergence from the dense model on held-out windows %.5f before", held_out));
  }

  template <typename Visit>
  void for_each(const Visit& visit) {
    for (std::vector<TuneParameter>& layer : layers_) {
      for (TuneParameter& p : layer) visit(p);
    }
    if (last_) visit(*last_);
  }

  std::int64_t parameters() {
    std::size_t count = 0;
    for_each([&](const TuneParameter& p) { count += p.size(); });
    return static_cast<std::int64_t>(count);
  }

  void collect() {
    const Architecture& rules = architecture(model_.config.architecture);
    const auto layers = static_cast<std::int64_t>(model_.config.layers.size());
    layers_.resize(static_cast<std::size_t>(layers));
    for (std::int64_t l = 0; l < layers; ++l) {
      for (const LayerTensor& tensor : layer_tensors(model_.config, l)) {
        const std::string name = layer_tensor_name(rules, l, tensor.name);
        std::vector<TuneParameter>& layer = layers_[static_cast<std::size_t>(l)];
        if (is_norm(tensor.rule->role) && !tensor.rule->bias) layer.push_back(TuneParameter::gains(name, tensor.name, model_.tensors.at(name)));
        if (tensor.linear() && options_.what != Tune::Norms && model_.tensors.at(name).encoding == Encoding::Packed) {
          layer.push_back(TuneParameter::scales(name, tensor.name, model_.tensors.at(name), options_.what == Tune::Rows));
        }
      }
    }
    for (const ExpectedTensor& tensor : expected_tensors(model_.config)) {
      if (tensor.role == Role::FinalNorm && !tensor.bias) last_ = TuneParameter::gains(tensor.name, "", model_.tensors.at(tensor.name));
    }
    if (parameters() == 0) throw UsageError("--tune: this model has nothing to tune; its norms have no gains");
  }

  // The dense model's head inputs of all windows.
  void teach(const Model& dense) {
    const ForwardPass forward(dense, options_.compute);
    Walk walk(forward, calibration_, pool_);
    for (std::int64_t l = 0; l < forward.layers(); ++l) {
      walk.advance(forward.load_layer(l));
      advance("tuning: the dense model", 0.07 / static_cast<double>(forward.layers()));
    }
    teacher_.resize(calibration_.windows.size());
    pool_.for_each(walk.windows(), [&](std::int64_t w) { teacher_[static_cast<std::size_t>(w)] = forward.head_input(walk.hidden(w)); });
  }

  // Fisher and Yates, from a seed.
  void shuffle(int epoch) {
    std::sort(training_.begin(), training_.end());
    SplitMix64 random(options_.seed * 1000003 + static_cast<std::uint64_t>(epoch));
    for (std::size_t i = training_.size(); i > 1; --i) std::swap(training_[i - 1], training_[random.below(i)]);
  }

  // States in front of every layer and behind the last one, of each window of a batch.
  std::vector<std::vector<at::Tensor>> forward_states(std::span<const std::int64_t> batch, bool keep) {
    const at::ScalarType kept_type = options_.compute == ComputeType::BFloat16 ? at::kBFloat16 : at::kFloat;
    const auto count = static_cast<std::int64_t>(batch.size());
    std::vector<std::vector<at::Tensor>> states(keep ? layers_.size() : 0);
    std::vector<at::Tensor> hidden(batch.size());
    LayerWeights weights = student_->load_layer(0), next;
    for (std::int64_t l = 0; l < student_->layers(); ++l) {
      if (keep) states[static_cast<std::size_t>(l)].resize(batch.size());
      // The next layer is decoded beside the windows' work.
      pool_.for_each(count + 1, [&](std::int64_t unit) {
        if (unit == 0) {
          if (l + 1 < student_->layers()) next = student_->load_layer(l + 1);
          return;
        }
        const auto w = static_cast<std::size_t>(unit - 1);
        if (l == 0) hidden[w] = student_->embed(calibration_.windows[static_cast<std::size_t>(batch[w])]);
        if (keep) states[static_cast<std::size_t>(l)][w] = hidden[w].to(kept_type);
        hidden[w] = student_->run_layer(weights, hidden[w]);
      });
      weights = std::move(next);
    }
    states.push_back(std::move(hidden));
    return states;
  }

  // Sum over positions of a window's divergence; where `gradient` is given, d of it/d hidden, and d/d (last norm's gains).
  double divergence(std::int64_t window, const at::Tensor& hidden, at::Tensor* gradient, at::Tensor* norm_gradient) const {
    const at::Tensor& teacher = teacher_[static_cast<std::size_t>(window)];
    if (gradient) *gradient = at::empty_like(hidden);
    double sum = 0;
    for (std::int64_t begin = 0; begin < hidden.size(0); begin += kTunePositions) {
      const std::int64_t count = std::min(kTunePositions, hidden.size(0) - begin);
      const at::Tensor x = hidden.narrow(0, begin, count);
      at::Tensor mine = at::log_softmax(student_->logits(x), 1);
      const at::Tensor wanted = at::log_softmax(student_->project(teacher.narrow(0, begin, count)), 1);
      const at::Tensor p = wanted.exp();
      sum += (wanted.sub(mine)).mul_(p).sum(at::kDouble).item<double>();
      if (!gradient) continue;
      at::Tensor of_norm;
      gradient->narrow(0, begin, count).copy_(student_->head_backward(x, mine.exp_().sub_(p), &of_norm));
      if (of_norm.defined()) *norm_gradient = norm_gradient->defined() ? *norm_gradient + of_norm : of_norm;
    }
    return sum;
  }

  double held_out_loss() {
    std::vector<double> sums(held_out_.size());
    const auto batch = static_cast<std::size_t>(options_.batch);
    for (std::size_t first = 0; first < held_out_.size(); first += batch) {
      const std::span<const std::int64_t> some = std::span(held_out_).subspan(first, std::min(batch, held_out_.size() - first));
      const std::vector<at::Tensor> hidden = std::move(forward_states(some, false).back());
      pool_.for_each(static_cast<std::int64_t>(some.size()), [&](std::int64_t unit) {
        const auto w = static_cast<std::size_t>(unit);
        sums[first + w] = divergence(some[w], hidden[w], nullptr, nullptr);
      });
    }
    return std::accumulate(sums.begin(), sums.end(), 0.0) / static_cast<double>(held_out_.size()) / static_cast<double>(calibration_.windows.front().size());
  }

  // Returns the batch's sum over windows of the divergence a position.
  double step(std::span<const std::int64_t> batch, double rate) {
    ++steps_;
    const auto count = static_cast<std::int64_t>(batch.size());
    std::vector<std::vector<at::Tensor>> states = forward_states(batch, true);
    std::vector<at::Tensor> gradients(batch.size()), of_norm(batch.size());
    std::vector<double> sums(batch.size());
    LayerWeights weights, next;
    pool_.for_each(count + 1, [&](std::int64_t unit) {
      if (unit == 0) {
        weights = student_->load_layer(student_->layers() - 1);
        return;
      }
      const auto w = static_cast<std::size_t>(unit - 1);
      sums[w] = divergence(batch[w], states.back()[w], &gradients[w], &of_norm[w]);
    });
    states.pop_back();
    if (last_) {
      std::vector<std::vector<float>> parts;
      const at::Tensor gains = to_torch(model_.tensors.at(last_->name()), last_->name(), at::kFloat);
      for (const at::Tensor& g : of_norm) parts.push_back(last_->reduce(g, gains));
      move(*last_, parts, options_.norm_rate * rate);
    }
    for (std::int64_t l = student_->layers() - 1; l >= 0; --l) {
      std::vector<TuneParameter>& parameters = layers_[static_cast<std::size_t>(l)];
      std::vector<std::string> names;
      for (const TuneParameter& p : parameters) names.push_back(p.rule());
      std::vector<std::vector<std::vector<float>>> parts(parameters.size(), std::vector<std::vector<float>>(batch.size()));
      pool_.for_each(count + 1, [&](std::int64_t unit) {
        if (unit == 0) {
          if (l > 0) next = student_->load_layer(l - 1);
          return;
        }
        const auto w = static_cast<std::size_t>(unit - 1);
        gradients[w] = student_->backward_tensors(weights, states.back()[w].to(at::kFloat), gradients[w], names, [&](std::string_view name, const at::Tensor& g) {
          const auto p = static_cast<std::size_t>(std::find(names.begin(), names.end(), name) - names.begin());
          parts[p][w] = parameters[p].reduce(g, weights.tensor(name));
        });
      });
      states.pop_back();
      pool_.for_each(static_cast<std::int64_t>(parameters.size()), [&](std::int64_t p) {
        TuneParameter& parameter = parameters[static_cast<std::size_t>(p)];
        move(parameter, parts[static_cast<std::size_t>(p)], (parameter.is_scales() ? options_.scale_rate : options_.norm_rate) * rate);
      });
      weights = std::move(next);
    }
    return std::accumulate(sums.begin(), sums.end(), 0.0) / static_cast<double>(calibration_.windows.front().size());
  }

  // Parts: a gradient a window, empty where none reached the tensor.
  void move(TuneParameter& parameter, std::span<const std::vector<float>> parts, double rate) {
    std::vector<float> gradient(parameter.size(), 0.0f);
    for (const std::vector<float>& part : parts) {
      for (std::size_t i = 0; i < part.size(); ++i) gradient[i] += part[i];
    }
    parameter.step(gradient, rate, steps_);
    const std::lock_guard lock(store_);
    parameter.store(model_.tensors.at(parameter.name()));
    if (last_ && &parameter == &*last_) student_->replace_final_norm(to_torch(model_.tensors.at(parameter.name()), parameter.name(), at::kFloat));
  }

  Model& model_;
  const Calibration& calibration_;
  const TuneOptions& options_;
  ThreadPool& pool_;
  const std::function<void(std::string_view, double)>& advance_;
  const MessageFunction& message_;
  std::vector<std::int64_t> training_, held_out_;
  std::vector<std::vector<TuneParameter>> layers_;
  std::optional<TuneParameter> last_;
  std::vector<at::Tensor> teacher_;  // [seqlen, width] of the compute type, a window
  std::optional<ForwardPass> student_;
  std::mutex store_;
  std::int64_t steps_ = 0;
};

}  // namespace

TuneResult tune(const Model& dense, Model& compressed, const Calibration& calibration, const TuneOptions& options, ThreadPool& pool,
                const std::function<void(std::string_view stage, double share)>& advance, const MessageFunction& message) {
  use_single_threaded_torch();
  return Tuner(compressed, calibration, options, pool, advance, message).run(dense);
}

}  // namespace miq
