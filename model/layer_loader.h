// A layer's stored tensors as the device computes with them. The processor decodes them and copies go through pinned memory; but packed linears go to a GPU
// as they are stored, a quarter of the bytes at 4 bits, and a kernel of ours decodes them there to the very bits that the processor would have made.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "miq/base/cuda_table.h"
#include "miq/formats/packed_octets.h"
#include "miq/model/architecture.h"
#include "miq/model/model.h"

namespace miq {

// Packed linears that were loaded where there is a kernel for them, each counted once a side.
struct PackedLoads {
  std::int64_t by_kernel = 0, by_processor = 0;
  std::string why;  // of the first that the processor had to decode

  // For people: "12 packed matrices decoded on cuda:0, 1 on the processor (NAME: WHY)"; empty where there were none.
  std::string text(const std::string& device) const;
};

class LayerLoader {
 public:
  using Tensors = std::map<std::string, at::Tensor, std::less<>>;

  // Linears become `linear_type` (float32 or bfloat16), all else float32. `kernels`: null where the processor decodes everything; with at::kCPU its
  // functions are loops of the tests. References stay.
  LayerLoader(const Model& model, at::ScalarType linear_type, at::Device device, const MiqCudaTable* kernels);

  // By rule name. Copies are there when it returns; decoding is queued behind what the device computes with. What takes no memory of the device is not
  // copied. Any number of threads may call it. Throws Error on a layer or a tensor that the model does not have, FormatError on damaged ones, Error where
  // the kernel fails, and LibTorch's OutOfMemoryError where there is no room for the decoded tensors; without room for packed bytes beside
  // them the processor decodes.
  // `site`: the linears that read there alone.
  Tensors load(std::int64_t index, std::optional<InputSite> site = std::nullopt) const;

  // What load() takes on the device at most, beside what it returns: the packed bytes of the layer.
  std::uint64_t packed_bytes(std::int64_t index) const;
  PackedLoads packed_loads() const;

 private:
  struct Sent {
    std::string_view rule_name;
    PackedView view{};
    PackedRounding rounding{};
    at::Tensor image;  // what the view points to, on the device
  };
  // Nothing where the processor has to decode.
  std::optional<Sent> send_packed(const Tensor& stored, const std::string& name, std::string_view rule_name) const;
  at::Tensor decode(const Sent& sent) const;
  at::Tensor to_device(const at::Tensor& host) const;
  void leave_to_processor(const std::string& name, const std::string& why) const;

  const Model& model_;
  at::ScalarType linear_type_;
  at::Device device_;
  const MiqCudaTable* kernels_;
  std::optional<c10::Stream> copying_;  // of a GPU

  mutable std::mutex mutex_;
  mutable std::set<std::string> by_kernel_, by_processor_;
  mutable std::string why_;
};

// A stored tensor as LibTorch's: dense ones share the mapped bytes when the type already fits (such a
// tensor must not be written to). Throws Error on element types that hold no real numbers.
at::Tensor to_torch(const Tensor& tensor, std::string_view name, at::ScalarType type);

// Throws Error where the model has no such tensor.
const Tensor& stored_tensor(const Model& model, const std::string& name);

}  // namespace miq
