// A tensor on the disk is a view of mapped pages that keeps the mapping alive.
#include "miq/compress/working_memory.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "miq/compress/exact_sums.h"

namespace miq {

at::Tensor WorkingMemory::keep(const at::Tensor& values, at::ScalarType type) const {
  const at::NoGradGuard no_grad;
  if (!disk) return values.to(type);
  const std::uint64_t bytes = static_cast<std::uint64_t>(values.numel()) * at::elementSize(type);
  std::shared_ptr<std::uint8_t> room = disk->allocate(bytes);
  void* data = room.get();
  at::Tensor kept = at::from_blob(data, values.sizes(), [room = std::move(room)](void*) mutable { room.reset(); }, at::TensorOptions(type));
  kept.copy_(values);
  return kept;
}

void WorkingMemory::replace(at::Tensor& kept, const at::Tensor& values) const {
  const at::NoGradGuard no_grad;
  if (!disk) {
    kept = values;
  } else if (kept.sizes() == values.sizes()) {
    kept.copy_(values);
  } else {
    kept = keep(values, kept.scalar_type());
  }
}

Tensor WorkingMemory::keep(Tensor tensor) const { return disk ? moved_to(*disk, std::move(tensor)) : tensor; }

std::vector<std::vector<InputPlace>> place_batches(const Config& config, std::int64_t layer, std::uint64_t bytes) {
  std::map<InputPlace, std::uint64_t> sizes;
  for (const LayerTensor& tensor : layer_tensors(config, layer)) {
    if (tensor.linear()) sizes[tensor.place()] = MomentSum::bytes(tensor.shape[1]);
  }
  std::vector<std::vector<InputPlace>> batches;
  std::uint64_t sum = 0;
  for (const auto& [place, size] : sizes) {
    if (batches.empty() || (bytes > 0 && sum + size > bytes)) {
      batches.emplace_back();
      sum = 0;
    }
    batches.back().push_back(place);
    sum += size;
  }
  return batches;
}

double token_share(const Config& config, std::int64_t layer, const LayerTensor& tensor) {
  const std::int64_t experts = config.layers[static_cast<std::size_t>(layer)].experts;
  return tensor.expert >= 0 && experts > 0 ? static_cast<double>(config.experts_per_token) / static_cast<double>(experts) : 1;
}

double observed_width(const Config& config, std::int64_t layer) {
  std::map<InputPlace, double> widths;
  for (const LayerTensor& tensor : layer_tensors(config, layer)) {
    if (tensor.linear()) widths[tensor.place()] = static_cast<double>(tensor.shape[1]) * token_share(config, layer, tensor);
  }
  double sum = 0;
  for (const auto& [place, width] : widths) sum += width;
  return sum;
}

std::int64_t observed_windows(const Config& config, std::int64_t layer, std::int64_t windows, std::int64_t seqlen, std::int64_t element_bytes, int threads) {
  constexpr double kBytes = 32 << 20;
  const double window = observed_width(config, layer) * static_cast<double>(seqlen * element_bytes);
  const auto fitting = static_cast<std::int64_t>(std::min(static_cast<double>(windows), kBytes / std::max(1.0, window)));
  return std::clamp<std::int64_t>(fitting, std::min<std::int64_t>(windows, threads), windows);
}

}  // namespace miq
