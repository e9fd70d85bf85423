// Columns of a tile (row_tile.h): 64 rows of one column lie together, so an operation on a column is four vectors wide. What the sweep and
// refining do with them; sums run over k in rising order, so the result does not depend on how many columns are taken at once.
#pragma once

#include <cstdint>

#include "miq/compress/row_tile.h"

namespace miq {

// column -= in[k] * factors[k] for k = begin … end-1, one after the other. in: [columns][64].
void subtract_columns(const float* in, const float* factors, std::int64_t begin, std::int64_t end, float* column);

// out[j] = sum over k < width of in[k] * factors[j * stride + k], for j < count; in and out: [columns][64].
void multiply_columns(const float* in, std::int64_t width, const float* factors, std::int64_t stride, std::int64_t count, float* out);
// out[j] -= the same.
void subtract_product(const float* in, std::int64_t width, const float* factors, std::int64_t stride, std::int64_t count, float* out);

// errors = (before - after) / d.
void error_column(const float* before, const float* after, float d, float* errors);

}  // namespace miq
