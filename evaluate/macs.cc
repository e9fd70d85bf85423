// Every tensor that the architecture expects is asked for its role: matrices count their elements, experts the chosen share of
// them. Attention's mean is that of min(p + 1, window) over the positions p.
#include "miq/evaluate/macs.h"

#include <algorithm>
#include <map>

namespace miq {
namespace {

// Tokens that the tokens of a text see, in all.
double seen(std::int64_t length, std::int64_t window) {
  const std::int64_t grows = window > 0 ? std::min(window, length) : length;
  return static_cast<double>(grows) * static_cast<double>(grows + 1) / 2 + static_cast<double>(length - grows) * static_cast<double>(grows);
}

bool of_an_expert(Role role) { return role == Role::ExpertGate || role == Role::ExpertUp || role == Role::ExpertDown; }

}  // namespace

std::int64_t MacCount::rotations() const {
  for (const auto& [part, count] : by_part) {
    if (part == Part::Rotation) return count;
  }
  return 0;
}

MacCount count_macs(const Config& config, std::int64_t length) {
  MacCount macs;
  macs.length = length;
  std::map<Part, std::int64_t> by_part, routed;  // routed: over all experts of the layer at hand
  std::int64_t layer = -1;
  const auto choose_experts = [&] {
    for (const auto& [part, count] : routed) {
      by_part[part] += count / config.layers[static_cast<std::size_t>(layer)].experts * config.experts_per_token;
    }
    routed.clear();
  };
  for (const ExpectedTensor& tensor : expected_tensors(config)) {
    if (tensor.layer != layer) {
      choose_experts();
      layer = tensor.layer;
    }
    const bool tied_head = tensor.role == Role::Embedding && config.tied_head && !tensor.bias;
    if (tensor.bias || tensor.shape.size() != 2 || tensor.role == Role::Positions || (tensor.role == Role::Embedding && !tied_head)) continue;
    const std::int64_t count = tensor.shape[0] * tensor.shape[1];
    (of_an_expert(tensor.role) ? routed : by_part)[tied_head ? Part::Head : tensor.part] += count;
  }
  choose_experts();
  macs.by_part.assign(by_part.begin(), by_part.end());
  for (const auto& [part, count] : macs.by_part) macs.products += count;
  if (length < 1) return macs;
  for (const LayerConfig& sizes : config.layers) {
    if (sizes.identity) continue;
    macs.attention += 2 * static_cast<double>(sizes.heads) * static_cast<double>(sizes.head_dim) * seen(length, sizes.window) / static_cast<double>(length);
  }
  return macs;
}

}  // namespace miq
