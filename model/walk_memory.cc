// Upper bounds from sizes alone. With our own kernels a window's buffers are the few that bf16_layer.cc keeps; with LibTorch's they
// are counted as the temporaries that live at once at the widest place of decoder.cc, in float32.
#include <algorithm>

#include "miq/model/bf16_layer.h"
#include "miq/model/forward.h"

namespace miq {
namespace {

constexpr std::int64_t kLossPositions = 128, kDeviceLossPositions = 1024;  // whose logits exist at once with LibTorch's kernels
constexpr std::int64_t kHeadTiles = 3;        // copies of such a block: logits, their exponentials, what is kept of them

std::int64_t layer_work(const Config& config, const LayerConfig& sizes, std::int64_t tokens, bool own) {
  const std::int64_t hidden = std::max({input_width(config, sizes), middle_width(config, sizes), output_width(config, sizes)});
  const std::int64_t query = sizes.heads * sizes.head_dim, key = sizes.kv_heads * sizes.head_dim;
  if (own) return tokens * ((config.sliced ? 12 : 8) * hidden + 4 * (query + 2 * key + 4 * kPanel) + 2 * query + 2 * sizes.mlp_width) + (std::int64_t{4} << 20);
  const std::int64_t width = std::max(sizes.mlp_width, sizes.shared_width);
  std::int64_t bytes = 4 * tokens * (4 * hidden + std::max(6 * query + 4 * key, 4 * width));
  if (sizes.window > 0 && sizes.window < tokens) bytes += 16 * tokens * tokens;  // the mask, and what attention makes of it
  return bytes + (std::int64_t{4} << 20);
}

}  // namespace

WalkMemory ForwardPass::walk_memory(std::int64_t tokens) const {
  WalkMemory memory;
  const Config& config = model_.config;
  const Architecture& rules = architecture(config.architecture);
  const std::int64_t element = type_ == ComputeType::Float32 ? 4 : 2;
  std::int64_t width = config.hidden, work = 0;
  for (std::int64_t index = 0; index < layers(); ++index) {
    const LayerConfig& sizes = config.layers[static_cast<std::size_t>(index)];
    if (sizes.identity) continue;
    const bool own = own_kernels(index);
    std::uint64_t decoded = 0, packed = 0;
    for (const LayerTensor& tensor : layer_tensors(config, index)) {
      const auto found = model_.tensors.find(layer_tensor_name(rules, index, tensor.name));
      if (found == model_.tensors.end()) continue;
      const DType wanted = tensor.linear() && type_ == ComputeType::BFloat16 ? DType::BF16 : DType::F32;
      const auto bytes = static_cast<std::uint64_t>(found->second.elements()) * (tensor.linear() ? static_cast<std::uint64_t>(element) : 4);
      const bool mapped = device_.is_cpu() && found->second.encoding == Encoding::Dense && found->second.dtype == wanted;
      if (!mapped) decoded += bytes;
      if (own && tensor.linear()) packed += bytes + bytes / 8;  // columns are rounded up
      if (own && tensor.rule->part == Part::Rotation) packed += bytes + bytes / 8 + (mapped ? 0 : bytes);  // beside itself
    }
    memory.kept = std::max(memory.kept, own ? packed : decoded);
    memory.loading = std::max(memory.loading, own ? decoded : loader_->packed_bytes(index));
    work = std::max(work, layer_work(config, sizes, tokens, own));
    width = std::max({width, input_width(config, sizes), output_width(config, sizes)});
  }
  const std::int64_t losses = packs_head_ ? tokens * 2 * config.hidden : std::min(tokens, device_form() ? kDeviceLossPositions : kLossPositions) * config.vocabulary * 4 * kHeadTiles;
  memory.work = static_cast<std::uint64_t>(std::max(work, losses));
  memory.window = static_cast<std::uint64_t>(tokens * width * 4);
  if (packs_head_ && !packed_head_) memory.head = head_.nbytes();
  return memory;
}

}  // namespace miq
