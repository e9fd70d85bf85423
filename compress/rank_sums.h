// Calibration by several processes: each has its own windows, and what is summed over windows is summed over processes.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "miq/base/ranks.h"
#include "miq/compress/calibration.h"

namespace miq {

// The windows of this process, in their order (share_of()), without the description. Throws UsageError where a process would have none.
Calibration own_windows(const Ranks& ranks, const Calibration& calibration);
// Rank 0's, for all.
void share_calibration(Ranks& ranks, Calibration& calibration);

// [rows, n] float32 of all ranks, one behind the other, in the rank `to`; undefined where there are none, and elsewhere.
at::Tensor gather_rows(Ranks& ranks, const at::Tensor& rows, std::int64_t columns, int to);

// Copies in host memory of what lies on a device.
std::vector<at::Tensor> on_host(std::vector<at::Tensor> tensors);

// One tensor a window, float32 and all of one shape: this process' own <-> all of them in rank 0. The others get and give nothing.
std::vector<at::Tensor> gather_windows(Ranks& ranks, const std::vector<at::Tensor>& own);
std::vector<at::Tensor> scatter_windows(Ranks& ranks, std::vector<at::Tensor> all);

}  // namespace miq
