// Products of few rows with a matrix as checkpoints store it, [out, in] row-major: what a step of generation is made of. Such
// a product reads every weight once and computes little with it, so it takes the time that the memory takes.
//
// A sum runs over `in` in a fixed order that depends on nothing but `in`: results do not depend on the number of rows, on where
// the matrix is cut, or on the thread.
#pragma once

#include <cstdint>

#include "miq/model/bf16_product.h"

namespace miq {

// y[r * ldy + o] = sum over i < in of x[r * ldx + i] * w[o * in + i], for r < rows and o < out. Products and sums in float32.
void row_products(const float* x, std::int64_t ldx, std::int64_t rows, const float* w, std::int64_t in, std::int64_t out, float* y,
                  std::int64_t ldy);
void row_products(const float* x, std::int64_t ldx, std::int64_t rows, const Bf16* w, std::int64_t in, std::int64_t out, float* y,
                  std::int64_t ldy);

// The same without instructions beyond what the compiler may use everywhere; for tests.
void row_products_portable(const float* x, std::int64_t ldx, std::int64_t rows, const float* w, std::int64_t in, std::int64_t out, float* y,
                           std::int64_t ldy);
void row_products_portable(const float* x, std::int64_t ldx, std::int64_t rows, const Bf16* w, std::int64_t in, std::int64_t out, float* y,
                           std::int64_t ldy);

// y[j] = sum over t < count of p[t] * v[t * width + j], j < width, in the order of t.
void weighted_rows(const float* p, const float* v, std::int64_t count, std::int64_t width, float* y);
void weighted_rows(const float* p, const Bf16* v, std::int64_t count, std::int64_t width, float* y);

}  // namespace miq
