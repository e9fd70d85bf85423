// Products of a few tokens with matrices as they are stored, on a GPU: its kernel reads the packed bytes of a matrix, a quarter of the dense ones at 4 bits,
// once for each token. Generation takes them for its steps; prompts go through the dense matrices, which stay.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <span>
#include <string_view>
#include <vector>

#include "miq/base/cuda_table.h"
#include "miq/formats/packed_octets.h"
#include "miq/formats/tensor.h"

namespace miq {

// The matrices of one layer.
class PackedProducts {
 public:
  // Null: everything is dense. The table outlives it; with at::kCPU its functions are loops of the tests.
  explicit PackedProducts(const MiqCudaTable* kernels = nullptr, at::Device device = at::kCPU) : kernels_(kernels), device_(device) {}

  // Lays `stored` out on the device where that is packed and smaller than `dense` [out, in], what products know the matrix by: its memory stays where it is
  // while this lives. Says whether it did; not where the device has no memory left for it. Throws as packed_arrays() does.
  bool add(const Tensor& stored, std::string_view name, const at::Tensor& dense);

  // Whether `rows` tokens read fewer bytes of the matrix packed, once each, than dense, once for all.
  bool takes(const at::Tensor& dense, std::int64_t rows) const;

  // x [tokens, in] times the transposes of matrices: one [tokens, out] for each, in the matrices' type. Packed where takes() says so, with float32 sums of
  // weights that are not rounded; else by LibTorch.
  std::vector<at::Tensor> products(const at::Tensor& x, std::span<const at::Tensor> matrices) const;

  std::size_t count() const { return matrices_.size(); }
  std::uint64_t bytes() const { return bytes_; }  // on the device

 private:
  struct Matrix {
    PackedView view;
    std::vector<at::Tensor> held;  // what it points to
    at::Tensor order;              // [in] int64: storage order to columns; undefined where they are the same
    std::vector<std::uint32_t> order_on_host;
    std::uint64_t bytes = 0;
  };
  at::Tensor product(const at::Tensor& ordered, const Matrix& matrix) const;

  const MiqCudaTable* kernels_;
  at::Device device_;
  std::map<const void*, Matrix> matrices_;  // by where the dense matrix lies
  std::uint64_t bytes_ = 0;
};

}  // namespace miq
