// One cast and one copy.
#include "miq/compress/dense.h"

namespace miq {

DType replacement_dtype(const Tensor& tensor) {
  return tensor.dtype == DType::BF16 || tensor.dtype == DType::F16 ? tensor.dtype : DType::F32;
}

Tensor dense_from_torch(const at::Tensor& values, DType dtype) {
  const at::ScalarType type = dtype == DType::BF16 ? at::kBFloat16 : dtype == DType::F16 ? at::kHalf : at::kFloat;
  const at::Tensor cast = values.to(type).contiguous();
  const auto* data = static_cast<const std::uint8_t*>(cast.const_data_ptr());
  return dense_tensor(dtype, cast.sizes().vec(), Blob(std::vector<std::uint8_t>(data, data + cast.nbytes())));
}

}  // namespace miq
