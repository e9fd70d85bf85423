// What calibration measures about each channel of a linear's input, beside the second-moment matrix H.
#pragma once

#include <cstdint>
#include <vector>

#include "miq/base/ranks.h"
#include "miq/base/thread_pool.h"

namespace at {
class Tensor;
}

namespace miq {

// Sums over tokens, one entry a channel. What one call adds is a part: summed in double token by token, rounded to 24 bits and added in double. So the
// result depends neither on the number of threads nor on the order of the parts, in one process or several (exact_sums.h).
struct ChannelStatistics {
  std::int64_t tokens = 0;
  std::vector<double> sum, sum_abs, sum_squares, sum_fourths;

  std::int64_t channels() const { return static_cast<std::int64_t>(sum.size()); }
  // Of sums rounded to 24 bits.
  std::vector<double> mean() const;           // E[x]
  std::vector<double> mean_abs() const;       // E[|x|]
  std::vector<double> second_moment() const;  // E[x^2], uncentred: the diagonal of H
  std::vector<double> fourth_moment() const;  // E[x^4], uncentred
};

// Adds a part, the rows of `inputs` ([…, channels], F32 or BF16, contiguous): a window, or its tokens that an expert reads. The first call sets the number of
// channels. Throws Error when a later call has another number of channels or the dtype is another.
void accumulate(ChannelStatistics& statistics, const at::Tensor& inputs, ThreadPool& pool);

// The same by LibTorch's operations, wherever the inputs lie; also what accumulate() does for those on a GPU. Sums of a call are LibTorch's, in double.
void accumulate_on_device(ChannelStatistics& statistics, const at::Tensor& inputs);

// Adds those of the other processes, in the rank `to` or in all; elsewhere they are unusable afterwards. `channels`: a rank may have seen no token.
void sum_over(Ranks& ranks, ChannelStatistics& statistics, std::int64_t channels, int to = Ranks::kAll);

}  // namespace miq
