// What structured removal takes: head groups (a key/value head with the query heads that share it) and channels of an MLP, which rows
// and columns of a layer's matrices belong to each, and which of them to take.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "miq/compress/methods.h"
#include "miq/model/architecture.h"

namespace miq {

// Whose the rows (or the columns) of a matrix are.
struct Ownership {
  enum class Of { Nobody, HeadGroups, Channels } of = Of::Nobody;
  bool rows = true;                 // false: columns
  std::vector<std::int64_t> owner;  // of each of them: number of the head group or channel
};
Ownership ownership(Role role, const LayerConfig& sizes);

// One layer: weights of its linears that go with one part, and what each part is worth.
struct LayerParts {
  bool whole = false;  // nothing may be removed
  std::int64_t weights = 0, group_weights = 0, channel_weights = 0;
  std::vector<double> group_scores;    // [key/value heads]
  std::vector<double> channel_scores;  // [MLP width]
};

// What stays of a layer, rising.
struct KeptParts {
  std::vector<std::int64_t> groups, channels;
};

// Takes at most `sparsity` of all weights, short of it by less than the smallest part that could still be taken. The lowest scores go
// first; every layer keeps a head group and an eighth of its channels; channels go by eights where the width is a multiple of 8. Even: the
// same share of head groups (to the nearest) in every layer that is not whole, and channels for the rest of the layer's share, so that
// layers of one size stay of one size. Global: all parts of the model compete by score per weight.
std::vector<KeptParts> plan_removal(std::span<const LayerParts> layers, double sparsity, SparsityAllocation allocation);

}  // namespace miq
