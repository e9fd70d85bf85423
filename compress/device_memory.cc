// A panel's product is float32, its rounding two float64 matrices of the same shape.
#include "miq/compress/device_memory.h"

#include <algorithm>
#include <map>

#include "miq/compress/exact_sums.h"
#include "miq/compress/working_memory.h"

namespace miq {

std::uint64_t most_device_sums_bytes(const Config& config, std::uint64_t bytes) {
  constexpr std::uint64_t kBeside = 1024 * (sizeof(float) + 2 * sizeof(double));  // for each column of a panel
  std::uint64_t most = 0;
  for (std::size_t l = 0; l < config.layers.size(); ++l) {
    const auto layer = static_cast<std::int64_t>(l);
    std::map<InputPlace, std::int64_t> widths;
    for (const LayerTensor& tensor : layer_tensors(config, layer)) {
      if (tensor.linear()) widths[tensor.place()] = tensor.shape[1];
    }
    for (const auto& places : place_batches(config, layer, bytes)) {
      std::uint64_t sums = 0, beside = 0;
      for (const InputPlace place : places) {
        sums += MomentSum::bytes(widths.at(place));
        beside = std::max(beside, kBeside * static_cast<std::uint64_t>(widths.at(place)));
      }
      most = std::max(most, sums + beside);
    }
  }
  return most;
}

}  // namespace miq
