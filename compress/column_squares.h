// Energies of the columns of a matrix.
#pragma once

#include <cstdint>
#include <vector>

namespace at {
class Tensor;
}

namespace miq {

// Sums over the rows of x^2, row after row in double: x [rows, n] float32 or bfloat16, in memory or on a device (there in LibTorch's order). Of another
// type: as float32.
std::vector<double> column_squares(const at::Tensor& x);

}  // namespace miq
