// Masks by a score alone, without compensation: Wanda and magnitude. Sources: wanda's lib/prune.py and
// lib/layerwrapper.py, sparsegpt's magnitude baseline.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "miq/base/thread_pool.h"

namespace miq {

// Which weights stay, [rows * cols] row-major: 1 kept, 0 pruned.
using KeptMask = std::vector<std::uint8_t>;

// `weights` [rows, cols] float32; `channel_norms` [cols]: sqrt of the mean over calibration of the squared
// input (Wanda's sqrt(scaler_row), up to a constant factor: the root of the Hessian's diagonal serves).
// Score |w| * norm; of each row the first int(cols * sparsity) in a stable ascending sort are pruned.
KeptMask wanda_mask(const at::Tensor& weights, std::span<const float> channel_norms, double sparsity, ThreadPool& pool);
// The n of least score in every m consecutive columns of a row (equal ones: the first).
KeptMask wanda_mask_nm(const at::Tensor& weights, std::span<const float> channel_norms, int n, int m, ThreadPool& pool);

// Over the whole matrix: threshold = ascending(|w|)[int(elements * sparsity)], all at or below it are pruned.
KeptMask magnitude_mask(const at::Tensor& weights, double sparsity, ThreadPool& pool);
KeptMask magnitude_mask_nm(const at::Tensor& weights, int n, int m, ThreadPool& pool);

// The weights with the pruned ones set to exactly 0 (a new tensor).
at::Tensor apply_mask(const at::Tensor& weights, const KeptMask& kept);

}  // namespace miq
