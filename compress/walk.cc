// Hidden states lie where the working memory says; a window's next state replaces the last in place. So do the inputs of a stage.
#include "miq/compress/walk.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <utility>

#include "miq/model/device.h"

namespace miq {
namespace {
constexpr std::int64_t kWindowsOnDevice = 16384;  // tokens in flight

// Of a place among others in rising order; their count where it is none of them.
std::size_t number_of(std::span<const InputPlace> places, InputPlace place) {
  const auto found = std::lower_bound(places.begin(), places.end(), place);
  return static_cast<std::size_t>((found != places.end() && *found == place ? found : places.end()) - places.begin());
}
}  // namespace

std::string layer_stage(std::string_view doing, std::int64_t layer, std::int64_t layers) {
  const std::string number = "layer " + std::to_string(layer + 1) + " of " + std::to_string(layers);
  return doing.empty() ? number : std::string(doing) + " " + number;
}

Walk::Walk(const ForwardPass& forward, const Calibration& calibration, ThreadPool& pool, const WorkingMemory& memory)
    : forward_(forward), staged_(forward), pool_(pool), memory_(memory), seqlen_(static_cast<std::int64_t>(calibration.windows.front().size())), hidden_(calibration.windows.size()) {
  for_windows(windows(), [&](std::int64_t w) {
    const auto unit = static_cast<std::size_t>(w);
    hidden_[unit] = memory_.keep(forward_.embed(calibration.windows[unit]), at::kFloat);
  });
}

void Walk::for_windows(std::int64_t count, const std::function<void(std::int64_t)>& work) {
  if (!forward_.device_form()) return pool_.for_each(count, work);
  for (std::int64_t w = 0; w < count; ++w) work(w);
}

void Walk::restore(std::int64_t window, const at::Tensor& state) {
  const auto w = static_cast<std::size_t>(window);
  hidden_.at(w) = memory_.keep(state, at::kFloat);
  if (!memory_.disk) hidden_[w] = state_of(w);
}

void Walk::observe_batches(std::int64_t layer, const WindowObserver& window, const BatchObserver& observer) {
  const std::vector<InputPlace> places = input_places(forward_.model().config, layer);
  if (forward_.device_form()) return observe_on_device(places, window, observer);
  const std::int64_t element = forward_.type() == ComputeType::BFloat16 ? 2 : 4;
  const std::int64_t batch = observed_windows(forward_.model().config, layer, windows(), seqlen_, element, pool_.threads());
  for (std::int64_t first = 0, count = 0; first < windows(); first += count) {
    count = std::min(batch, windows() - first);
    std::vector<std::vector<at::Tensor>> seen(places.size(), std::vector<at::Tensor>(static_cast<std::size_t>(count)));  // by place and window of the batch
    pool_.for_each(count, [&](std::int64_t unit) {
      const auto w = static_cast<std::size_t>(first + unit);
      const at::Tensor state = window(w, [&](InputPlace place, const at::Tensor& input) {
        const std::size_t p = number_of(places, place);
        if (p < places.size()) seen[p][static_cast<std::size_t>(unit)] = input.contiguous();
      });
      if (state.defined()) memory_.replace(hidden_[w], state);
    });
    for (std::size_t p = 0; p < places.size(); ++p) {
      std::erase_if(seen[p], [](const at::Tensor& input) { return !input.defined() || input.size(0) == 0; });
      if (!seen[p].empty()) observer(places[p], seen[p]);
      seen[p].clear();
    }
  }
}

// States are replaced when all that a batch showed is taken: until then it can begin again from them.
void Walk::observe_on_device(std::span<const InputPlace> places, const WindowObserver& window, const BatchObserver& observer) {
  std::vector<std::int64_t> shown(places.size());
  std::int64_t batch = most_in_flight_ > 0 ? most_in_flight_ : std::max<std::int64_t>(1, kWindowsOnDevice / std::max<std::int64_t>(1, seqlen_));
  for (std::int64_t first = 0; first < windows();) {
    const std::int64_t count = std::min(batch, windows() - first);
    std::vector<at::Tensor> next(static_cast<std::size_t>(count));
    if (!show_batch(first, places, window, observer, shown, next)) {
      most_in_flight_ = batch = count / 2;
      next.clear();
      empty_device_cache(forward_.device());
      continue;
    }
    for (at::Tensor& state : next) {
      if (state.defined()) memory_.replace(hidden_[static_cast<std::size_t>(first)], state);
      state = at::Tensor();
      ++first;
    }
  }
}

bool Walk::show_batch(std::int64_t first, std::span<const InputPlace> places, const WindowObserver& window, const BatchObserver& observer,
                      std::vector<std::int64_t>& shown, std::vector<at::Tensor>& next) try {
  std::vector<std::vector<at::Tensor>> seen(places.size(), std::vector<at::Tensor>(next.size()));
  for (std::size_t unit = 0; unit < next.size(); ++unit) {
    const std::int64_t w = first + static_cast<std::int64_t>(unit);
    next[unit] = window(static_cast<std::size_t>(w), [&](InputPlace place, const at::Tensor& input) {
      const std::size_t p = number_of(places, place);
      if (p < places.size() && w >= shown[p]) seen[p][unit] = input.contiguous();
    });
  }
  for (std::size_t p = 0; p < places.size(); ++p) {
    for (std::size_t unit = 0; unit < next.size(); ++unit) {
      const at::Tensor input = std::exchange(seen[p][unit], at::Tensor());
      if (input.defined() && input.size(0) > 0) observer(places[p], {&input, 1});
      shown[p] = std::max(shown[p], first + static_cast<std::int64_t>(unit) + 1);
    }
  }
  return true;
} catch (const c10::OutOfMemoryError&) {  // what was seen is gone by now
  if (next.size() == 1) throw;
  return false;
}

void Walk::observe(const LayerWeights& layer, const BatchObserver& observer, bool advance) {
  observe_batches(layer.index, [&](std::size_t w, const InputObserver& keep) -> at::Tensor {
    if (advance) return forward_.run_layer(layer, state_of(w), keep);
    forward_.observe_layer(layer, state_of(w), keep);
    return {};
  }, observer);
}

void Walk::reach(const LayerWeights& layer, InputSite stage) {
  inputs_.resize(hidden_.size());
  for_windows(windows(), [&](std::int64_t unit) {
    const auto w = static_cast<std::size_t>(unit);
    const at::Tensor state = state_of(w);
    StagedWindow window{state, input_of(w)};
    inputs_[w] = at::Tensor();
    staged_.reach(layer, stage, window);
    if (!window.stream.is_same(state)) memory_.replace(hidden_[w], window.stream);
    if (window.input.defined()) inputs_[w] = memory_.keep(window.input, window.input.scalar_type());
  });
}

void Walk::show(const LayerWeights& layer, InputSite stage, const BatchObserver& observer) {
  observe_batches(layer.index, [&](std::size_t w, const InputObserver& keep) {
    staged_.show(layer, stage, {state_of(w), input_of(w)}, keep);
    return at::Tensor();
  }, observer);
}

void Walk::finish(const LayerWeights& layer) {
  for_windows(windows(), [&](std::int64_t unit) {
    const auto w = static_cast<std::size_t>(unit);
    StagedWindow window{state_of(w), input_of(w)};
    inputs_[w] = at::Tensor();
    staged_.finish(layer, window);
    memory_.replace(hidden_[w], window.stream);
  });
  inputs_.clear();
}

void Walk::advance(const LayerWeights& layer) {
  for_windows(windows(), [&](std::int64_t unit) {
    const auto w = static_cast<std::size_t>(unit);
    memory_.replace(hidden_[w], forward_.run_layer(layer, state_of(w)));
  });
}

}  // namespace miq
