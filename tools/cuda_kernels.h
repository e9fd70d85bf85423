// Our kernels for the device that a command chose.
#pragma once

#include <memory>

#include "miq/base/device_sums.h"
#include "miq/compress/compute_device.h"
#include "miq/tools/program.h"

namespace miq {

// The processor as it is; a GPU with libmiq_cuda.so opened: beside the programs' folder (../lib/miq), or where MIQ_CUDA_LIBRARY says. Throws Error that
// says what is missing.
ComputeDevice with_kernels(at::Device device);

// The same for programs that can do without them: null on the processor, and where the library is missing, which is said.
const MiqCudaTable* kernels_if_there(at::Device device, Session& session);

// By all processes together: the session's, with sums from GPU to GPU. Says which way sums go; null where through host memory, and alone.
std::unique_ptr<DeviceRanks> ranks_on_devices(const ComputeDevice& where, Session& session);

}  // namespace miq
