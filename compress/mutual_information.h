// How much two channels of a linear's input tell about each other, in nats.
//
// Gaussian: taking them as jointly Gaussian,
//
//   C = H - m m^T            covariance, from the uncentred second moment H = E[x x^T] and the mean m = E[x]
//   rho = C_ij / sqrt(C_ii C_jj)
//   I_ij = -1/2 ln(1 - min(rho^2, 1 - 1e-6))     in nats, so at most 6.9
//
// (Cover and Thomas, Elements of Information Theory, example 8.5.1.) A channel without variance shares nothing.
//
// Binned: every channel is cut at its own quantiles into 8 bins that hold equally many samples (equal values fall into one bin); from the
// counts n_ab, n_a, n_b of T samples
//
//   I_ij = sum n_ab / T ln(T n_ab / (n_a n_b)) + (m_i + m_j - m_ij - 1) / 2T     never below 0
//
// m: how many bins, and how many pairs of bins, hold anything (Miller and Madow's correction of the plug-in estimate, which is too
// high by about (m - 1) / 2T for each entropy). Sees any dependence, but at most ln 8 = 2.08 nats, and costs a pass over the samples
// for every pair of channels.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "miq/base/thread_pool.h"
#include "miq/compress/compute_device.h"

namespace miq {

enum class MiEstimator { Gaussian, Binned };
std::string_view mi_estimator_name(MiEstimator estimator);  // "gaussian", "binned"

// `second_moment` [n, n] F32 or F64, symmetric, per token; `mean` [n]. Returns [n, n] F32, symmetric, never
// negative, its diagonal 0. Throws Error when shapes disagree or a value is not finite. On a device the matrices lie there.
at::Tensor gaussian_mutual_information(const at::Tensor& second_moment, std::span<const double> mean, ThreadPool& pool, const ComputeDevice& where = {});

// Rows of activations for the binned estimate: every stride-th token, the first included, of all that are added.
class TokenSample {
 public:
  // At most `most` of the `expected` tokens to come.
  explicit TokenSample(std::int64_t expected, std::int64_t most = 8192);
  // [tokens, n] F32 or BF16, all on one device, where the rows stay.
  void add(const at::Tensor& inputs);
  // The next token that is added is this one of those to come.
  void skip_to(std::int64_t token) { seen_ = token; }
  at::Tensor rows() const;  // [kept, n] F32; undefined when nothing was added

 private:
  std::int64_t stride_ = 1, seen_ = 0;
  std::vector<at::Tensor> parts_;
};

inline constexpr int kInformationBins = 8;  // kBinsOfChannel of information_math.h
// `samples` [tokens, n] F32 contiguous, at least one token. Returns as gaussian_mutual_information. Throws Error on another shape
// and on values that are not finite. On a device both matrices lie there; the counts are the same.
at::Tensor binned_mutual_information(const at::Tensor& samples, ThreadPool& pool, const ComputeDevice& where = {});

// Over the pairs i < j, in nats; 0 where there is no such pair.
struct MutualInformationSummary {
  double mean = 0, largest = 0;
  double within = 0, between = 0;  // mean over pairs of one group, and of different groups
};

// `group` [n]: the group of each channel, by the channel's own number.
MutualInformationSummary summarize(const at::Tensor& mutual_information, std::span<const std::int32_t> group, ThreadPool& pool);
// The mean over the pairs within each group 0 … groups-1, in nats; 0 for a group of one channel.
std::vector<double> information_within(const at::Tensor& mutual_information, std::span<const std::int32_t> group, std::int64_t groups);

// The matrix between groups, for people to look at: at most this many blocks a side.
inline constexpr std::int64_t kInformationBlocksKept = 24;
// [blocks * blocks], row by row: the mean over the pairs of a channel of one block and one of another; on the diagonal over the pairs
// within. A block is a group, or where there are more than kInformationBlocksKept a run of groups: group g belongs to block
// g * blocks / groups. `group` as for information_within.
std::vector<float> information_blocks(const at::Tensor& mutual_information, std::span<const std::int32_t> group, std::int64_t groups,
                                      ThreadPool& pool);

}  // namespace miq
