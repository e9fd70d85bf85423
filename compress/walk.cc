// Hidden states lie where the working memory says; a window's next state replaces the last in place. So do the inputs of a stage.
#include "miq/compress/walk.h"

#include <algorithm>
#include <utility>

namespace miq {

std::string layer_stage(std::string_view doing, std::int64_t layer, std::int64_t layers) {
  const std::string number = "layer " + std::to_string(layer + 1) + " of " + std::to_string(layers);
  return doing.empty() ? number : std::string(doing) + " " + number;
}

Walk::Walk(const ForwardPass& forward, const Calibration& calibration, ThreadPool& pool, const WorkingMemory& memory)
    : forward_(forward), staged_(forward), pool_(pool), memory_(memory), seqlen_(static_cast<std::int64_t>(calibration.windows.front().size())), hidden_(calibration.windows.size()) {
  pool_.for_each(windows(), [&](std::int64_t w) {
    const auto unit = static_cast<std::size_t>(w);
    hidden_[unit] = memory_.keep(forward_.embed(calibration.windows[unit]), at::kFloat);
  });
}

void Walk::restore(std::vector<at::Tensor> hidden) {
  hidden_.resize(hidden.size());
  for (std::size_t w = 0; w < hidden.size(); ++w) hidden_[w] = memory_.keep(std::exchange(hidden[w], {}), at::kFloat);
}

void Walk::observe_batches(std::int64_t layer, const WindowObserver& window, const BatchObserver& observer) {
  const std::vector<InputPlace> places = input_places(forward_.model().config, layer);
  const std::int64_t element = forward_.type() == ComputeType::BFloat16 ? 2 : 4;
  const std::int64_t batch = observed_windows(forward_.model().config, layer, windows(), seqlen_, element, pool_.threads());
  for (std::int64_t first = 0; first < windows(); first += batch) {
    const std::int64_t count = std::min(batch, windows() - first);
    std::vector<std::vector<at::Tensor>> seen(places.size());  // by place and window of the batch
    for (auto& windows : seen) windows.resize(static_cast<std::size_t>(count));
    pool_.for_each(count, [&](std::int64_t unit) {
      window(static_cast<std::size_t>(first + unit), [&](InputPlace place, const at::Tensor& input) {
        const auto found = std::lower_bound(places.begin(), places.end(), place);
        if (found == places.end() || *found != place) return;
        seen[static_cast<std::size_t>(found - places.begin())][static_cast<std::size_t>(unit)] = input.contiguous();
      });
    });
    for (std::size_t p = 0; p < places.size(); ++p) {
      std::erase_if(seen[p], [](const at::Tensor& input) { return !input.defined() || input.size(0) == 0; });
      if (!seen[p].empty()) observer(places[p], seen[p]);
      seen[p].clear();
    }
  }
}

void Walk::observe(const LayerWeights& layer, const BatchObserver& observer, bool advance) {
  observe_batches(layer.index, [&](std::size_t w, const InputObserver& keep) {
    if (advance) {
      memory_.replace(hidden_[w], forward_.run_layer(layer, hidden_[w], keep));
    } else {
      forward_.observe_layer(layer, hidden_[w], keep);
    }
  }, observer);
}

void Walk::reach(const LayerWeights& layer, InputSite stage) {
  inputs_.resize(hidden_.size());
  pool_.for_each(windows(), [&](std::int64_t unit) {
    const auto w = static_cast<std::size_t>(unit);
    StagedWindow window{hidden_[w], std::exchange(inputs_[w], {})};
    staged_.reach(layer, stage, window);
    if (!window.stream.is_same(hidden_[w])) memory_.replace(hidden_[w], window.stream);
    if (window.input.defined()) inputs_[w] = memory_.keep(window.input, window.input.scalar_type());
  });
}

void Walk::show(const LayerWeights& layer, InputSite stage, const BatchObserver& observer) {
  observe_batches(layer.index, [&](std::size_t w, const InputObserver& keep) { staged_.show(layer, stage, {hidden_[w], inputs_[w]}, keep); }, observer);
}

void Walk::finish(const LayerWeights& layer) {
  pool_.for_each(windows(), [&](std::int64_t unit) {
    const auto w = static_cast<std::size_t>(unit);
    StagedWindow window{hidden_[w], std::exchange(inputs_[w], {})};
    staged_.finish(layer, window);
    memory_.replace(hidden_[w], window.stream);
  });
  inputs_.clear();
}

void Walk::advance(const LayerWeights& layer) {
  pool_.for_each(windows(), [&](std::int64_t w) {
    at::Tensor& state = hidden_[static_cast<std::size_t>(w)];
    memory_.replace(state, forward_.run_layer(layer, state));
  });
}

}  // namespace miq
