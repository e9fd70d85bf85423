// Parts of one kind in one layer weigh the same, so in falling value per weight each layer is a stack of head groups and a
// stack of blocks of channels, and only how deep each stack is cut has to be decided.
#include "miq/compress/structure_parts.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

namespace miq {
namespace {

constexpr std::int64_t kBlock = 8;
constexpr std::int64_t kLeastShare = 8;  // an eighth of the channels stays

// The parts of one kind in one layer, least valuable first.
struct Stack {
  std::vector<std::int64_t> order;                     // of parts, rising score
  std::vector<double> values;                          // of blocks, a weight's share
  std::int64_t block = 1, weights = 0, removable = 0;  // parts in a block, weights of a block, blocks that may go
  std::int64_t removed = 0;                            // blocks

  std::vector<std::int64_t> kept() const {
    std::vector<std::int64_t> parts(order.begin() + removed * block, order.end());
    std::sort(parts.begin(), parts.end());
    return parts;
  }
};

Stack make_stack(const std::vector<double>& scores, std::int64_t part_weights, std::int64_t block, std::int64_t least, bool whole) {
  Stack stack;
  const auto parts = static_cast<std::int64_t>(scores.size());
  stack.order.resize(scores.size());
  std::iota(stack.order.begin(), stack.order.end(), 0);
  std::stable_sort(stack.order.begin(), stack.order.end(), [&](std::int64_t a, std::int64_t b) {
    return scores[static_cast<std::size_t>(a)] < scores[static_cast<std::size_t>(b)];
  });
  stack.block = block;
  stack.weights = part_weights * block;
  stack.removable = whole ? 0 : std::max<std::int64_t>(0, (parts - least) / block);
  for (std::int64_t b = 0; b < stack.removable; ++b) {
    double sum = 0;
    for (std::int64_t i = 0; i < block; ++i) sum += scores[static_cast<std::size_t>(stack.order[static_cast<std::size_t>(b * block + i)])];
    stack.values.push_back(sum / static_cast<double>(std::max<std::int64_t>(1, stack.weights)));
  }
  return stack;
}

struct Stacks {
  Stack groups, channels;
  explicit Stacks(const LayerParts& layer) : groups(make_stack(layer.group_scores, layer.group_weights, 1, 1, layer.whole)) {
    const auto width = static_cast<std::int64_t>(layer.channel_scores.size());
    const std::int64_t block = width % kBlock == 0 ? kBlock : 1;
    channels = make_stack(layer.channel_scores, layer.channel_weights, block, std::max(block, (width + kLeastShare - 1) / kLeastShare),
                          layer.whole);
  }
};

void take_even(std::span<const LayerParts> layers, std::vector<Stacks>& stacks, double share) {
  for (std::size_t l = 0; l < layers.size(); ++l) {
    if (layers[l].whole) continue;
    auto& [groups, channels] = stacks[l];
    const double budget = share * static_cast<double>(layers[l].weights);
    const auto whole_groups = static_cast<std::int64_t>(std::llround(share * static_cast<double>(groups.order.size())));
    groups.removed = std::clamp<std::int64_t>(whole_groups, 0, groups.removable);
    while (groups.removed > 0 && static_cast<double>(groups.removed * groups.weights) > budget) --groups.removed;
    const double rest = budget - static_cast<double>(groups.removed * groups.weights);
    channels.removed = std::clamp<std::int64_t>(
        static_cast<std::int64_t>(rest / static_cast<double>(std::max<std::int64_t>(1, channels.weights))), 0, channels.removable);
    // Where the channels' floor leaves some of the share, heads go for it.
    while (groups.removed < groups.removable && channels.removed == channels.removable &&
           static_cast<double>((groups.removed + 1) * groups.weights + channels.removed * channels.weights) <= budget) {
      ++groups.removed;
    }
  }
}

void take_global(std::vector<Stacks>& stacks, double budget) {
  struct Step {
    double value;
    std::size_t layer;
    bool heads;
    std::int64_t depth;
    auto key() const { return std::tuple(value, layer, heads, depth); }
  };
  std::vector<Step> steps;
  for (std::size_t l = 0; l < stacks.size(); ++l) {
    for (const bool heads : {false, true}) {
      const Stack& stack = heads ? stacks[l].groups : stacks[l].channels;
      for (std::int64_t b = 0; b < stack.removable; ++b) steps.push_back({stack.values[static_cast<std::size_t>(b)], l, heads, b});
    }
  }
  std::sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.key() < b.key(); });
  double taken = 0;
  for (const Step& step : steps) {
    Stack& stack = step.heads ? stacks[step.layer].groups : stacks[step.layer].channels;
    // A smaller part of another stack may still fit.
    if (taken + static_cast<double>(stack.weights) > budget || stack.removed != step.depth) continue;
    taken += static_cast<double>(stack.weights);
    ++stack.removed;
  }
}

}  // namespace

Ownership ownership(Role role, const LayerConfig& sizes) {
  Ownership result;
  const auto heads = [&](std::int64_t count) {
    const std::int64_t shared = std::max<std::int64_t>(1, count / std::max<std::int64_t>(1, sizes.kv_heads));
    result.of = Ownership::Of::HeadGroups;
    for (std::int64_t i = 0; i < count * sizes.head_dim; ++i) result.owner.push_back(i / sizes.head_dim / shared);
  };
  switch (role) {
    case Role::Query: heads(sizes.heads); break;
    case Role::Key:
    case Role::Value: heads(sizes.kv_heads); break;
    case Role::QueryKeyValue:
      heads(sizes.heads);
      heads(sizes.kv_heads);
      heads(sizes.kv_heads);
      break;
    case Role::AttentionOutput:
      heads(sizes.heads);
      result.rows = false;
      break;
    case Role::Gate:
    case Role::Up:
    case Role::Down:
      result.of = Ownership::Of::Channels;
      result.rows = role != Role::Down;
      result.owner.resize(static_cast<std::size_t>(sizes.mlp_width));
      std::iota(result.owner.begin(), result.owner.end(), 0);
      break;
    default: break;
  }
  return result;
}

std::vector<KeptParts> plan_removal(std::span<const LayerParts> layers, double sparsity, SparsityAllocation allocation) {
  std::vector<Stacks> stacks;
  double all = 0, open = 0;
  for (const LayerParts& layer : layers) {
    stacks.emplace_back(layer);
    all += static_cast<double>(layer.weights);
    if (!layer.whole) open += static_cast<double>(layer.weights);
  }
  if (allocation == SparsityAllocation::Even) {
    take_even(layers, stacks, open > 0 ? std::min(1.0, sparsity * all / open) : 0);
  } else {
    take_global(stacks, sparsity * all);
  }
  std::vector<KeptParts> kept;
  for (const Stacks& layer : stacks) kept.push_back({layer.groups.kept(), layer.channels.kept()});
  return kept;
}

}  // namespace miq
