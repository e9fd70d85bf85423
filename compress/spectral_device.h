// Internal to spectral.cc: its steps by LibTorch's operations, on any device.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace miq {

// As leading_eigenvectors() of symmetric_eigen.h, for a float32 matrix [n, n] on a device: [n, count] float64 there.
at::Tensor leading_eigenvectors_on_device(const at::Tensor& matrix, std::int64_t count, std::uint64_t seed, std::vector<double>* values = nullptr);

// As kmeans() of kmeans.h, for points [n, dimensions] float64 on a device.
std::vector<std::int32_t> kmeans_on_device(const at::Tensor& points, std::int64_t clusters, std::uint64_t seed);

// D^-1/2 A D^-1/2 of an affinity; then the labels, not yet numbered. Throws Error on values that are negative or not finite.
std::vector<std::int32_t> clusters_on_device(const at::Tensor& affinity, std::int64_t clusters, std::uint64_t seed, at::Device device);

}  // namespace miq
