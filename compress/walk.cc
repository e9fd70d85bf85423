// A batch holds about 16,384 tokens: enough rows for the matrix products behind an observer to run at full
// speed, and a bound on what the inputs of one layer take.
#include "miq/compress/walk.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>

namespace miq {
namespace {
constexpr std::int64_t kBatchTokens = 16384;
}

Walk::Walk(const ForwardPass& forward, const Calibration& calibration, ThreadPool& pool)
    : forward_(forward), pool_(pool), seqlen_(static_cast<std::int64_t>(calibration.windows.front().size())), hidden_(calibration.windows.size()) {
  pool_.for_each(windows(), [&](std::int64_t w) {
    const auto unit = static_cast<std::size_t>(w);
    hidden_[unit] = forward_.embed(calibration.windows[unit]);
  });
}

void Walk::observe(const LayerWeights& layer, const BatchObserver& observer, bool advance) {
  const std::int64_t batch = std::max<std::int64_t>(1, kBatchTokens / seqlen_);
  std::array<at::Tensor, kInputSites.size()> inputs;
  const LayerConfig& sizes = forward_.model().config.layers[static_cast<std::size_t>(layer.index)];
  const std::int64_t hidden = forward_.model().config.hidden;
  const std::array<std::int64_t, kInputSites.size()> widths{hidden, sizes.heads * sizes.head_dim, hidden, sizes.mlp_width};
  const at::ScalarType type = forward_.type() == ComputeType::BFloat16 ? at::kBFloat16 : at::kFloat;
  for (std::int64_t first = 0; first < windows(); first += batch) {
    const std::int64_t count = std::min(batch, windows() - first);
    for (std::size_t s = 0; s < inputs.size(); ++s) inputs[s] = at::empty({count * seqlen_, widths[s]}, type);
    pool_.for_each(count, [&](std::int64_t unit) {
      auto copy = [&](InputSite site, const at::Tensor& input) {
        inputs[static_cast<std::size_t>(site)].narrow(0, unit * seqlen_, seqlen_).copy_(input.reshape({seqlen_, -1}));
      };
      at::Tensor& state = hidden_[static_cast<std::size_t>(first + unit)];
      at::Tensor next = forward_.run_layer(layer, state, copy);
      if (advance) state = std::move(next);
    });
    for (InputSite site : kInputSites) observer(site, inputs[static_cast<std::size_t>(site)]);
  }
}

void Walk::advance(const LayerWeights& layer) {
  pool_.for_each(windows(), [&](std::int64_t w) {
    at::Tensor& state = hidden_[static_cast<std::size_t>(w)];
    state = forward_.run_layer(layer, state);
  });
}

}  // namespace miq
