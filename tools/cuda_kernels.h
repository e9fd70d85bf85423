// Our kernels for the device that a command chose.
#pragma once

#include "miq/compress/compute_device.h"

namespace miq {

// The processor as it is; a GPU with libmiq_cuda.so opened: beside the programs' folder (../lib/miq), or where MIQ_CUDA_LIBRARY says. Throws Error that
// says what is missing.
ComputeDevice with_kernels(at::Device device);

}  // namespace miq
