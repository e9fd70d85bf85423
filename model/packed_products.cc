// Arrays are copied to the device as bytes. The kernel takes its input in storage order, which matrices that read the same input mostly share: one of them
// orders it for all.
#include "miq/model/packed_products.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linear.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <utility>

#include "miq/base/cuda_library.h"
#include "miq/formats/packed_view.h"

namespace miq {
namespace {

// A copy of `values` on the device, kept in `held`; null for none.
template <typename T>
const T* copied(const std::vector<T>& values, at::Device device, std::vector<at::Tensor>& held) {
  if (values.empty()) return nullptr;
  const auto bytes = static_cast<std::int64_t>(values.size() * sizeof(T));
  held.push_back(at::empty({bytes}, at::TensorOptions(at::kByte).device(device)));
  held.back().copy_(at::from_blob(const_cast<T*>(values.data()), {bytes}, at::TensorOptions(at::kByte)));
  return static_cast<const T*>(held.back().const_data_ptr());
}

}  // namespace

bool PackedProducts::add(const Tensor& stored, std::string_view name, const at::Tensor& dense) {
  if (kernels_ == nullptr || stored.encoding != Encoding::Packed || dense.dim() != 2 || dense.numel() == 0) return false;
  const at::NoGradGuard no_grad;
  PackedArrays arrays = packed_arrays(stored, name);
  if (arrays.rows != dense.size(0) || arrays.cols != dense.size(1) || arrays.bytes() >= static_cast<std::uint64_t>(dense.nbytes())) return false;
  Matrix matrix;
  try {
    std::vector<at::Tensor>& held = matrix.held;
    matrix.view = {arrays.rows,
                   arrays.cols,
                   static_cast<std::int64_t>(arrays.octets.size()),
                   arrays.runs,
                   copied(arrays.octets, device_, held),
                   copied(arrays.groups, device_, held),
                   copied(arrays.codes, device_, held),
                   copied(arrays.zeros, device_, held),
                   copied(arrays.mask, device_, held),
                   copied(arrays.scales, device_, held),
                   copied(arrays.kept_before, device_, held),
                   nullptr};
    if (!arrays.column_of_place.empty()) {
      for (const auto& [other, known] : matrices_) {
        if (known.order_on_host == arrays.column_of_place) matrix.order = known.order;
      }
      if (!matrix.order.defined()) {
        const std::vector<std::int64_t> order(arrays.column_of_place.begin(), arrays.column_of_place.end());
        matrix.order = at::empty({arrays.cols}, at::TensorOptions(at::kLong).device(device_));
        matrix.order.copy_(at::from_blob(const_cast<std::int64_t*>(order.data()), {arrays.cols}, at::TensorOptions(at::kLong)));
      }
    }
  } catch (const c10::OutOfMemoryError&) {
    return false;
  }
  matrix.bytes = arrays.bytes();
  matrix.order_on_host = std::move(arrays.column_of_place);
  bytes_ += matrix.bytes;
  matrices_.insert_or_assign(dense.const_data_ptr(), std::move(matrix));
  return true;
}

bool PackedProducts::takes(const at::Tensor& dense, std::int64_t rows) const {
  if (matrices_.empty() || rows < 1 || dense.numel() == 0) return false;
  const auto found = matrices_.find(dense.const_data_ptr());
  if (found == matrices_.end() || found->second.view.rows != dense.size(0) || found->second.view.cols != dense.size(1)) return false;
  return static_cast<std::uint64_t>(rows) <= static_cast<std::uint64_t>(dense.nbytes()) / found->second.bytes;
}

at::Tensor PackedProducts::product(const at::Tensor& ordered, const Matrix& matrix) const {
  const std::int64_t tokens = ordered.size(0);
  at::Tensor y = at::empty({tokens, matrix.view.rows}, ordered.options());
  for (std::int64_t token = 0; token < tokens; ++token) {
    // The kernel reads four numbers at once: a row of its own memory begins where it may.
    const at::Tensor x = matrix.view.cols % 4 == 0 ? ordered.select(0, token) : ordered.select(0, token).clone();
    const int status = kernels_->packed_product(device_.has_index() ? device_.index() : 0, &matrix.view, x.const_data_ptr<float>(),
                                                y.mutable_data_ptr<float>() + token * matrix.view.rows);
    check_cuda(*kernels_, status, "a product with a packed matrix");
  }
  return y;
}

std::vector<at::Tensor> PackedProducts::products(const at::Tensor& x, std::span<const at::Tensor> matrices) const {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> outputs;
  at::Tensor wide, ordered, order;
  for (const at::Tensor& dense : matrices) {
    if (!takes(dense, x.size(0))) {
      outputs.push_back(at::linear(x, dense));
      continue;
    }
    const Matrix& matrix = matrices_.at(dense.const_data_ptr());
    if (!wide.defined()) wide = x.to(at::kFloat).contiguous();
    if (matrix.order.defined() && (!order.defined() || !order.is_same(matrix.order))) {
      order = matrix.order;
      ordered = wide.index_select(1, order);
    }
    outputs.push_back(product(matrix.order.defined() ? ordered : wide, matrix).to(dense.scalar_type()));
  }
  return outputs;
}

}  // namespace miq
