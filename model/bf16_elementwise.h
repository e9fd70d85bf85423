// The elementwise steps between the products of a layer, on AVX512-BF16 CPUs (have_bf16_kernels() is
// REQUIRED): float32 in registers, one rounding to bfloat16 where a product reads the result.
#pragma once

#include <cstdint>

#include "miq/model/bf16_product.h"

namespace miq {

// to[i] = bfloat16(x[i] * weight[i] / sqrt(mean(x^2) + epsilon)), i < n.
void rms_norm_bf16(const float* x, const float* weight, double epsilon, std::int64_t n, Bf16* to);

// The same in float32; `to` may be `x`.
void rms_norm_float(const float* x, const float* weight, double epsilon, std::int64_t n, float* to);

// Rotates one head: low = x[0 … half-1], high = x[half … 2 half-1] (rope.h).
void rotate_bf16(const float* x, const float* cosines, const float* sines, std::int64_t half, Bf16* to);

// to[i] = bfloat16(gate[i] / (1 + e^-gate[i]) * up[i]), i < n. Relative error before rounding under 1e-6.
void silu_times_bf16(const float* gate, const float* up, std::int64_t n, Bf16* to);

// to[i] = bfloat16(x[i] * scale)
void scale_bf16(const float* x, float scale, std::int64_t n, Bf16* to);

// to[i] = a[i] + b[i]; `to` may be `a` or `b`.
void add_float(const float* a, const float* b, std::int64_t n, float* to);

// Softmax numerators: to[i] = bfloat16(e^(scale (x[i] - max x))), i < n; returns the sum of them before
// rounding. to[n … padded-1] = 0. n >= 1, scale > 0.
float softmax_numerators_bf16(const float* x, std::int64_t n, float scale, std::int64_t padded, Bf16* to);

// --- backwards

// to[i] = add[i] + d loss / d x[i], given g = d loss / d (the RMS norm of x); `to` may be `add`.
void rms_norm_backward(const float* x, const float* weight, double epsilon, std::int64_t n, const float* g, const float* add, float* to);

// Given d = d loss / d (silu(gate) up): the gradients of gate and up, i < n.
void silu_times_backward_bf16(const float* d, const float* gate, const float* up, std::int64_t n, Bf16* to_gate, Bf16* to_up);

// One query: p = softmax(scale x) over begin <= i < end, 0 elsewhere; given dp = d loss / d p, writes d loss / d (x) to
// to[0 … padded-1] and leaves what softmax_columns_backward() needs: log(sum e^(scale x)) and sum p dp. Overwrites x.
struct SoftmaxRow {
  float log_sum, mean;
};
SoftmaxRow softmax_backward(float* x, const float* dp, std::int64_t begin, std::int64_t end, float scale, std::int64_t padded, Bf16* to);

// One key of many queries i, begin <= i < end: p and d loss / d x of each from its row's figures; 0 elsewhere in 0 … padded-1.
void softmax_column_backward(const float* x, const float* dp, const float* log_sums, const float* means, std::int64_t begin, std::int64_t end,
                             float scale, std::int64_t padded, Bf16* to_p, Bf16* to_x);

// Log-sum-exp in parts: largest value so far and sum of e^(x - largest). Starts as {-infinity, 0}.
struct LogSum {
  float largest, sum;
};
void add_to_log_sum(LogSum& state, const float* x, std::int64_t n);

// e^x for tests of the error bound.
void exponential_float(const float* x, std::int64_t n, float* to);

}  // namespace miq
