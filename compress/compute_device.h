// Where the compression computes: the processor, or a device with our kernels (base/cuda_library.h).
#pragma once

#include <c10/core/Device.h>

#include "miq/base/cuda_table.h"

namespace miq {

struct ComputeDevice {
  at::Device device = at::kCPU;
  // Of our library; null: the processor's own code. With at::kCPU: loops that stand for the kernels, in tests.
  const MiqCudaTable* kernels = nullptr;

  bool used() const { return kernels != nullptr; }
  int index() const { return device.has_index() ? device.index() : 0; }
};

}  // namespace miq
