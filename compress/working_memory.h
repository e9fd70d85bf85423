// Where a run keeps what outlives one layer, and how many Hessians it sums at once. Nothing here changes what is computed: the result
// is the same, byte for byte, with any of it.
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "miq/formats/scratch_folder.h"
#include "miq/formats/tensor.h"
#include "miq/model/architecture.h"

namespace miq {

struct WorkingMemory {
  const ScratchFolder* disk = nullptr;  // for hidden states and finished layers; null: in memory. Outlives the run
  std::uint64_t hessians = 0;           // bytes of Hessians summed at once; 0: those of a whole layer

  // A copy of `values` in this element type, on the disk where there is one (in memory it may be `values` itself).
  at::Tensor keep(const at::Tensor& values, at::ScalarType type) const;
  // The next value of a tensor that keep() returned for this use alone.
  void replace(at::Tensor& kept, const at::Tensor& values) const;
  // Moves the sections.
  Tensor keep(Tensor tensor) const;
};

// The layer's places (input_places()) in runs whose Hessians take at most `bytes` together; single places may take more. One run
// for 0.
std::vector<std::vector<InputPlace>> place_batches(const Config& config, std::int64_t layer, std::uint64_t bytes);

// The mean share of the tokens that the tensor's linear sees: an expert's in a mixture, else 1.
double token_share(const Config& config, std::int64_t layer, const LayerTensor& tensor);
// Values that all linears of a layer read for one token: the sum over places, an expert's by the mean share of tokens that it sees.
double observed_width(const Config& config, std::int64_t layer);
// How many windows pass through a layer before what its linears read is used and dropped: about 32 MiB of it, at least a window a
// thread. What is summed does not depend on it.
std::int64_t observed_windows(const Config& config, std::int64_t layer, std::int64_t windows, std::int64_t seqlen, std::int64_t element_bytes, int threads);

}  // namespace miq
