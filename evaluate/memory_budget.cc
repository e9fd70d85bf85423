// What is there already is measured: the program, texts and their tokens, what opening decoded, embedding and head. What the walk
// adds is bounded from sizes (ForwardPass::walk_memory).
#include "miq/evaluate/memory_budget.h"

#include <algorithm>

#include "miq/base/error.h"
#include "miq/evaluate/report.h"
#include "miq/model/device.h"

namespace miq {

namespace {

constexpr std::uint64_t kUnlimited = std::uint64_t{1} << 60;

// On a device: two layers, or one, and the buffers of one window must fit; hidden states that do not go to the host's memory.
WalkOptions fit_device(const ForwardPass& forward, const WalkOptions& options, std::int64_t tokens) {
  const WalkMemory memory = forward.walk_memory(tokens);
  const DeviceMemory there = device_memory(forward.device());
  std::uint64_t room = there.total > 0 ? there.free / 16 * 15 : kUnlimited;  // the rest is for what the allocator cannot join
  if (options.memory_bytes > 0) room = std::min(room, options.memory_bytes - std::min(options.memory_bytes, forward.global_bytes()));
  const auto needed = [&](bool early) { return (early ? 2 : 1) * memory.kept + memory.loading + memory.work; };
  WalkOptions fitted = options;
  for (const bool early : {true, false}) {
    if (needed(early) > room) continue;
    const std::uint64_t windows = (room - needed(early)) / std::max<std::uint64_t>(1, memory.window);
    fitted.device_windows = static_cast<std::int64_t>(windows);
    fitted.load_early = early;
    fitted.activation_bytes = std::min(kUnlimited, options.activation_bytes + windows * memory.window);
    return fitted;
  }
  throw Error((options.memory_bytes > 0 ? "--memory " + bytes_text(options.memory_bytes) : forward.device().str() + " with " + bytes_text(there.free) + " free") +
              " is too little for '" + forward.model().name + "' in windows of " + std::to_string(tokens) + " tokens: beside embedding and head (" +
              bytes_text(forward.global_bytes()) + ") it takes " + bytes_text(needed(false)) + ", of which " + bytes_text(memory.kept + memory.loading) + " for a layer and " +
              bytes_text(memory.work) + " for a window's buffers. Give " + (options.memory_bytes > 0 ? "more, " : "") + "shorter windows (--seqlen), or another --device");
}

}  // namespace

WalkOptions fit_memory(const ForwardPass& forward, const WalkOptions& options, std::int64_t tokens, int threads) {
  if (forward.device_form()) return fit_device(forward, options, tokens);
  if (options.memory_bytes == 0) return options;
  const WalkMemory memory = forward.walk_memory(tokens);
  const std::uint64_t now = anonymous_bytes();
  // Of `windows` in flight; a layer that is loaded early is there beside the one in use.
  const auto needed = [&](std::uint64_t windows, bool early) {
    return now + memory.head + (early ? 2 : 1) * memory.kept + memory.loading + std::min(windows, static_cast<std::uint64_t>(threads)) * memory.work +
           windows * memory.window;
  };
  const std::uint64_t most = std::max<std::uint64_t>(options.activation_bytes / std::max<std::uint64_t>(1, memory.window), static_cast<std::uint64_t>(threads));
  WalkOptions fitted = options;
  for (const bool early : {true, false}) {
    std::uint64_t windows = 0;
    // As many as threads use one by one, then as many as there is room for.
    while (windows < static_cast<std::uint64_t>(threads) && needed(windows + 1, early) <= options.memory_bytes) ++windows;
    if (windows == 0) continue;
    if (windows == static_cast<std::uint64_t>(threads)) windows += (options.memory_bytes - needed(windows, early)) / std::max<std::uint64_t>(1, memory.window);
    fitted.most_windows = static_cast<std::int64_t>(std::min(windows, most));
    fitted.load_early = early;
    return fitted;
  }
  throw Error("--memory " + bytes_text(options.memory_bytes) + " is too little for '" + forward.model().name + "' in windows of " + std::to_string(tokens) +
              " tokens: it takes " + bytes_text(needed(1, false)) + ". The process has " + bytes_text(now) +
              " (the program, texts, what opening the model decoded, embedding and head); to that come " + bytes_text(memory.head) + " for the packed head, " +
              bytes_text(memory.kept + memory.loading) + " for a layer, " + bytes_text(memory.work + memory.window) +
              " for a window. Give more, or shorter windows (--seqlen)");
}

}  // namespace miq
