// Lists of numbers that one process found, made known to all: losses of windows, above all.
#pragma once

#include <span>
#include <vector>

#include "miq/base/ranks.h"

namespace miq {

// lists[i] is known to rank owners[i], and afterwards to all, bit by bit. As many lists, and the same owners, in all ranks. Alone nothing happens.
void share_lists(Ranks& ranks, std::span<std::vector<float>* const> lists, std::span<const int> owners);

}  // namespace miq
