// Hidden states (or gradients) of windows on their way to a journal and back, one window at a time: nobody holds more of them than the walk itself does.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace miq {

// All windows are [tokens, width] float32. None where `windows` is 0.
struct StateShape {
  std::int64_t windows = 0, tokens = 0, width = 0;
};

// Whoever reads it asks state(0), state(1), … once each, in order, and lets go of one before it asks for the next. What is given is a matrix float32 in
// host memory; a state that lies on a device is copied when it is asked for.
struct StateSource {
  std::int64_t windows = 0;
  std::function<at::Tensor(std::int64_t window)> state;
};

// Gets the windows in order.
using StateSink = std::function<void(std::int64_t window, at::Tensor state)>;

// `states` outlives what is returned.
inline StateSource states_of(const std::vector<at::Tensor>& states) {
  return {static_cast<std::int64_t>(states.size()), [&states](std::int64_t window) { return states[static_cast<std::size_t>(window)].to(at::kCPU); }};
}

}  // namespace miq
