// Rows pass through a layer side by side; only attention looks at what sequence a row belongs to (decoder.cc, bf16_layer.cc), by laying
// each sequence's rows in a row and doing what it does for a window. The beginning's part of that is done again for every sequence, which
// costs a few per cent: products with weights take nearly all of the time at the lengths of questions.
#include "miq/model/shared_prefix.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "miq/model/bf16_layer.h"
#include "miq/model/decoder.h"

namespace miq {

SharedSequence SharedRows::add(std::int64_t prefix_begin, std::int64_t prefix, std::span<const std::int32_t> own) {
  const SharedSequence sequence{prefix_begin, prefix, rows(), static_cast<std::int64_t>(own.size())};
  ids.insert(ids.end(), own.begin(), own.end());
  if (!own.empty()) sequences.push_back(sequence);
  return sequence;
}

bool SharedPass::can_share(const Config& config) {
  return config.positions != Positions::Rotary ||
         (config.rope_scaling.kind != RopeScaling::Kind::Dynamic && config.rope_scaling.kind != RopeScaling::Kind::QwenDynamic);
}

at::Tensor SharedPass::embed(const SharedRows& rows) const {
  if (forward_.model().config.positions == Positions::Rotary) return forward_.embed(rows.ids);
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> parts;
  for (const SharedSequence& sequence : rows.sequences) {
    std::vector<std::int32_t> ids;
    for (std::int64_t position = 0; position < sequence.prefix + sequence.length; ++position) {
      ids.push_back(rows.ids[static_cast<std::size_t>(sequence.row(position))]);
    }
    parts.push_back(forward_.embed(ids).narrow(0, sequence.prefix, sequence.length));
  }
  return at::cat(parts);
}

at::Tensor SharedPass::run_layer(const LayerWeights& layer, const at::Tensor& hidden, const SharedRows& rows) const {
  use_single_threaded_torch();
  const at::NoGradGuard no_grad;
  const Config& config = forward_.model().config;
  const LayerConfig& sizes = config.layers.at(static_cast<std::size_t>(layer.index));
  if (sizes.identity) return hidden;
  RopeTable rope;
  if (config.positions == Positions::Rotary) {
    std::int64_t longest = 0;
    at::Tensor positions = at::empty({rows.rows()}, at::kLong);
    for (const SharedSequence& sequence : rows.sequences) {
      longest = std::max(longest, sequence.prefix + sequence.length);
      for (std::int64_t i = 0; i < sequence.length; ++i) positions.data_ptr<std::int64_t>()[sequence.begin + i] = sequence.prefix + i;
    }
    positions = positions.to(forward_.device());
    const RopeTable table = rope_.table(sizes.head_dim, longest);
    rope.cosines = table.cosines.index_select(0, positions);
    rope.sines = table.sines.index_select(0, positions);
    if (table.query_factors.defined()) rope.query_factors = table.query_factors.index_select(0, positions);
  }
  LayerContext context{config, sizes, forward_.type(), rope};
  context.shared = &rows;
  context.fused = forward_.device_form();
  return layer.packed ? layer.packed->run(context, hidden.contiguous(), {}) : decode_layer(context, layer, hidden, {}, {});
}

}  // namespace miq
