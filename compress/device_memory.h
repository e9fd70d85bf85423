// What sums of second moments take on a device.
#pragma once

#include <cstdint>

#include "miq/model/config.h"

namespace miq {

// Bytes for the Hessians that are summed at once, in batches of `bytes` (place_batches()), with what is computed beside them: the most of any layer.
std::uint64_t most_device_sums_bytes(const Config& config, std::uint64_t bytes);

}  // namespace miq
