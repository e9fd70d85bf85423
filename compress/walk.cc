// Hidden states lie where the working memory says; a window's next state replaces the last in place.
#include "miq/compress/walk.h"

#include <algorithm>
#include <utility>

namespace miq {

std::string layer_stage(std::string_view doing, std::int64_t layer, std::int64_t layers) {
  const std::string number = "layer " + std::to_string(layer + 1) + " of " + std::to_string(layers);
  return doing.empty() ? number : std::string(doing) + " " + number;
}

Walk::Walk(const ForwardPass& forward, const Calibration& calibration, ThreadPool& pool, const WorkingMemory& memory)
    : forward_(forward), pool_(pool), memory_(memory), seqlen_(static_cast<std::int64_t>(calibration.windows.front().size())), hidden_(calibration.windows.size()) {
  pool_.for_each(windows(), [&](std::int64_t w) {
    const auto unit = static_cast<std::size_t>(w);
    hidden_[unit] = memory_.keep(forward_.embed(calibration.windows[unit]), at::kFloat);
  });
}

void Walk::restore(std::vector<at::Tensor> hidden) {
  hidden_.resize(hidden.size());
  for (std::size_t w = 0; w < hidden.size(); ++w) hidden_[w] = memory_.keep(std::exchange(hidden[w], {}), at::kFloat);
}

void Walk::observe(const LayerWeights& layer, const BatchObserver& observer, bool advance) {
  const std::vector<InputPlace> places = input_places(forward_.model().config, layer.index);
  const std::int64_t element = forward_.type() == ComputeType::BFloat16 ? 2 : 4;
  const std::int64_t batch = observed_windows(forward_.model().config, layer.index, windows(), seqlen_, element, pool_.threads());
  for (std::int64_t first = 0; first < windows(); first += batch) {
    const std::int64_t count = std::min(batch, windows() - first);
    std::vector<std::vector<at::Tensor>> seen(places.size());  // by place and window of the batch
    for (auto& windows : seen) windows.resize(static_cast<std::size_t>(count));
    pool_.for_each(count, [&](std::int64_t unit) {
      auto keep = [&](InputPlace place, const at::Tensor& input) {
        const auto found = std::lower_bound(places.begin(), places.end(), place);
        if (found == places.end() || *found != place) return;
        seen[static_cast<std::size_t>(found - places.begin())][static_cast<std::size_t>(unit)] = input.contiguous();
      };
      at::Tensor& state = hidden_[static_cast<std::size_t>(first + unit)];
      if (advance) {
        memory_.replace(state, forward_.run_layer(layer, state, keep));
      } else {
        forward_.observe_layer(layer, state, keep);
      }
    });
    for (std::size_t p = 0; p < places.size(); ++p) {
      std::erase_if(seen[p], [](const at::Tensor& input) { return !input.defined() || input.size(0) == 0; });
      if (!seen[p].empty()) observer(places[p], seen[p]);
      seen[p].clear();
    }
  }
}

void Walk::advance(const LayerWeights& layer) {
  pool_.for_each(windows(), [&](std::int64_t w) {
    at::Tensor& state = hidden_[static_cast<std::size_t>(w)];
    memory_.replace(state, forward_.run_layer(layer, state));
  });
}

}  // namespace miq
