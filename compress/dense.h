// LibTorch's tensors as a model's dense ones.
#pragma once

#include <ATen/core/Tensor.h>

#include "miq/formats/tensor.h"

namespace miq {

// The element type in which what replaces `tensor` is stored: bfloat16 and float16 stay, all else becomes float32.
DType replacement_dtype(const Tensor& tensor);
// `values` cast to `dtype`: F32, F16 or BF16.
Tensor dense_from_torch(const at::Tensor& values, DType dtype);

}  // namespace miq
