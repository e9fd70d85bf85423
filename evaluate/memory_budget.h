// A walk through a model within a stated amount of memory.
#pragma once

#include <cstdint>

#include "miq/evaluate/perplexity.h"

namespace miq {

// Options with which a walk over windows of at most `tokens` keeps the process's anonymous memory, what it has now included, within
// options.memory_bytes: windows in flight as many as fit, up to those that options.activation_bytes allows, and where there is no room
// for two layers the next one loaded when the last is done with. On a device its memory counts instead: what is free there, or what of it
// options.memory_bytes allows; windows whose states do not fit there wait in the host's memory. Throws Error that says what is needed. Without a budget: `options`.
WalkOptions fit_memory(const ForwardPass& forward, const WalkOptions& options, std::int64_t tokens, int threads);

// The process's anonymous memory (RssAnon); 0 where the system does not say.
std::uint64_t anonymous_bytes();

}  // namespace miq
