// How much two channels of a linear's input tell about each other, taking them as jointly Gaussian:
//
//   C = H - m m^T            covariance, from the uncentred second moment H = E[x x^T] and the mean m = E[x]
//   rho = C_ij / sqrt(C_ii C_jj)
//   I_ij = -1/2 ln(1 - min(rho^2, 1 - 1e-6))     in nats, so at most 6.9
//
// (Cover and Thomas, Elements of Information Theory, example 8.5.1.) A channel without variance shares nothing.
#pragma once

#include <cstdint>
#include <span>

#include <ATen/core/Tensor.h>

#include "miq/base/thread_pool.h"

namespace miq {

// `second_moment` [n, n] F32 or F64, symmetric, per token; `mean` [n]. Returns [n, n] F32, symmetric, never
// negative, its diagonal 0. Throws Error when shapes disagree or a value is not finite.
at::Tensor gaussian_mutual_information(const at::Tensor& second_moment, std::span<const double> mean, ThreadPool& pool);

// Over the pairs i < j, in nats; 0 where there is no such pair.
struct MutualInformationSummary {
  double mean = 0, largest = 0;
  double within = 0, between = 0;  // mean over pairs of one group, and of different groups
};

// `group` [n]: the group of each channel, by the channel's own number.
MutualInformationSummary summarize(const at::Tensor& mutual_information, std::span<const std::int32_t> group, ThreadPool& pool);

}  // namespace miq
