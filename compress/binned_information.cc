// Every bin of a channel is a set of samples, kept as bits; the count of a pair of bins is the number of bits that two
// sets share. Sums of n ln n come from a table, added in a fixed order for each pair; each pair is computed once, by the unit
// that owns its lower channel.
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "miq/base/cuda_library.h"
#include "miq/base/error.h"
#include "miq/compress/information_math.h"
#include "miq/compress/mutual_information.h"
#include "miq/compress/not_finite.h"

namespace miq {
namespace {

constexpr int kBins = kInformationBins;
static_assert(kBins == kBinsOfChannel);
constexpr std::int64_t kChannelsPerUnit = 8;
using Word = std::uint64_t;

// n ln n for n = 0 … tokens.
std::vector<double> table_of_logs(std::int64_t tokens) {
  std::vector<double> table(static_cast<std::size_t>(tokens) + 1);
  for (std::size_t count = 1; count < table.size(); ++count) table[count] = static_cast<double>(count) * std::log(static_cast<double>(count));
  return table;
}

struct BinnedChannel {
  std::array<std::int64_t, kBins> counts{};
  int occupied = 0;
  double count_logs = 0;  // sum over bins of n ln n
};

class BinnedSamples {
 public:
  BinnedSamples(const at::Tensor& samples, ThreadPool& pool) : tokens_(samples.size(0)), words_((tokens_ + 63) / 64) {
    const std::int64_t n = samples.size(1);
    channels_.resize(static_cast<std::size_t>(n));
    sets_.assign(static_cast<std::size_t>(n * kBins * words_), 0);
    log_table_ = table_of_logs(tokens_);
    const float* x = samples.const_data_ptr<float>();
    pool.for_each((n + kChannelsPerUnit - 1) / kChannelsPerUnit, [&](std::int64_t unit) {
      for (std::int64_t j = unit * kChannelsPerUnit; j < std::min(n, (unit + 1) * kChannelsPerUnit); ++j) bin(x + j, n, j);
    });
  }

  double information(std::int64_t i, std::int64_t j) const {
    const BinnedChannel &a = channels_[static_cast<std::size_t>(i)], &b = channels_[static_cast<std::size_t>(j)];
    std::array<std::int64_t, kBins * kBins> pairs;
    count_pairs(set(i, 0), set(j, 0), words_, pairs.data());
    // The last bin of each is what the others leave.
    for (int p = 0; p < kBins - 1; ++p) {
      std::int64_t rest = a.counts[static_cast<std::size_t>(p)];
      for (int q = 0; q < kBins - 1; ++q) rest -= pairs[static_cast<std::size_t>(p * kBins + q)];
      pairs[static_cast<std::size_t>(p * kBins + kBins - 1)] = rest;
    }
    for (int q = 0; q < kBins; ++q) {
      std::int64_t rest = b.counts[static_cast<std::size_t>(q)];
      for (int p = 0; p < kBins - 1; ++p) rest -= pairs[static_cast<std::size_t>(p * kBins + q)];
      pairs[static_cast<std::size_t>((kBins - 1) * kBins + q)] = rest;
    }
    return binned_information_of(pairs.data(), log_table_.data(), tokens_, a.count_logs, b.count_logs, a.occupied, b.occupied);
  }

 private:
  const Word* set(std::int64_t channel, int bin) const { return sets_.data() + (channel * kBins + bin) * words_; }

  // Counts of the first kBins - 1 bins of both.
  __attribute__((target_clones("arch=icelake-server", "popcnt", "default"))) static void count_pairs(const Word* a, const Word* b,
                                                                                                     std::int64_t words,
                                                                                                     std::int64_t* pairs) {
    for (int p = 0; p < kBins - 1; ++p) {
      for (int q = 0; q < kBins - 1; ++q) {
        const Word *x = a + p * words, *y = b + q * words;
        std::int64_t count = 0;
        for (std::int64_t w = 0; w < words; ++w) count += std::popcount(x[w] & y[w]);
        pairs[p * kBins + q] = count;
      }
    }
  }

  // A value falls into the bin of the number of inner edges that are not above it.
  void bin(const float* x, std::int64_t stride, std::int64_t channel) {
    std::vector<float> sorted(static_cast<std::size_t>(tokens_));
    for (std::int64_t t = 0; t < tokens_; ++t) {
      sorted[static_cast<std::size_t>(t)] = x[t * stride];
      if (!std::isfinite(x[t * stride]))
        throw NotFinite("mutual information: an activation of channel " + std::to_string(channel) + " is not finite");
    }
    std::sort(sorted.begin(), sorted.end());
    std::array<float, kBins - 1> edges;
    for (int b = 1; b < kBins; ++b) edges[static_cast<std::size_t>(b - 1)] = sorted[static_cast<std::size_t>(b * tokens_ / kBins)];
    BinnedChannel& stats = channels_[static_cast<std::size_t>(channel)];
    Word* sets = sets_.data() + channel * kBins * words_;
    for (std::int64_t t = 0; t < tokens_; ++t) {
      const auto b = std::upper_bound(edges.begin(), edges.end(), x[t * stride]) - edges.begin();
      ++stats.counts[static_cast<std::size_t>(b)];
      sets[b * words_ + t / 64] |= Word{1} << (t % 64);
    }
    for (std::int64_t count : stats.counts) {
      stats.count_logs += log_table_[static_cast<std::size_t>(count)];
      stats.occupied += count > 0;
    }
  }

  std::int64_t tokens_, words_;
  std::vector<BinnedChannel> channels_;
  std::vector<Word> sets_;  // [channel][bin][word]
  std::vector<double> log_table_;
};

// A channel is cut and a pair counted by the device; logarithms of a channel's own counts are summed here, as BinnedSamples does.
at::Tensor binned_on_device(const at::Tensor& samples, const ComputeDevice& where) {
  const std::int64_t tokens = samples.size(0), n = samples.size(1);
  if (!at::isfinite(samples).all().item<bool>()) throw NotFinite("mutual information: an activation is not finite");
  const at::Tensor rows = samples.t().contiguous();
  at::Tensor bins = at::zeros({n, tokens}, samples.options().dtype(at::kByte));
  {
    const at::Tensor sorted = std::get<0>(at::sort(rows, 1));
    for (int b = 1; b < kBins; ++b) bins.add_(rows.ge(sorted.narrow(1, b * tokens / kBins, 1)).to(at::kByte));
  }
  at::Tensor counts = at::empty({kBins, n}, samples.options().dtype(at::kLong));
  for (int b = 0; b < kBins; ++b) counts.select(0, b).copy_(bins.eq(b).sum(1));
  const at::Tensor host_counts = counts.to(at::kCPU);
  const std::vector<double> logs = table_of_logs(tokens);
  at::Tensor count_logs = at::zeros({n}, at::kDouble), occupied = at::zeros({n}, at::kInt);
  for (int b = 0; b < kBins; ++b) {
    for (std::int64_t j = 0; j < n; ++j) {
      const std::int64_t count = host_counts.const_data_ptr<std::int64_t>()[b * n + j];
      count_logs.mutable_data_ptr<double>()[j] += logs[static_cast<std::size_t>(count)];
      occupied.mutable_data_ptr<std::int32_t>()[j] += count > 0;
    }
  }
  count_logs = count_logs.to(where.device);
  occupied = occupied.to(where.device);
  const at::Tensor table = at::from_blob(const_cast<double*>(logs.data()), {tokens + 1}, at::TensorOptions(at::kDouble)).to(where.device);
  at::Tensor out = at::empty({n, n}, samples.options());
  check_cuda(*where.kernels,
             where.kernels->binned_information(where.index(), bins.const_data_ptr<std::uint8_t>(), tokens, n, count_logs.const_data_ptr<double>(),
                                               occupied.const_data_ptr<std::int32_t>(), table.const_data_ptr<double>(), out.mutable_data_ptr<float>()),
             "binned mutual information");
  return out;
}

}  // namespace

TokenSample::TokenSample(std::int64_t expected, std::int64_t most) : stride_(std::max<std::int64_t>(1, (expected + most - 1) / most)) {}

void TokenSample::add(const at::Tensor& inputs) {
  const std::int64_t tokens = inputs.size(0), first = (stride_ - seen_ % stride_) % stride_;
  seen_ += tokens;
  if (first >= tokens) return;
  parts_.push_back(inputs.slice(0, first, tokens, stride_).to(at::kFloat).contiguous().clone());
}

at::Tensor TokenSample::rows() const { return parts_.empty() ? at::Tensor() : at::cat(parts_, 0); }

at::Tensor binned_mutual_information(const at::Tensor& samples, ThreadPool& pool, const ComputeDevice& where) {
  if (!samples.defined() || samples.dim() != 2 || samples.size(0) < 1 || samples.scalar_type() != at::kFloat || !samples.is_contiguous() ||
      samples.device().type() != where.device.type())
    throw Error("mutual information: the samples must be a contiguous float32 matrix [tokens, channels] on the CPU, or on the device that computes");
  if (where.used()) return binned_on_device(samples, where);
  const std::int64_t n = samples.size(1);
  const BinnedSamples binned(samples, pool);
  at::Tensor result = at::empty({n, n}, at::kFloat);
  float* out = result.data_ptr<float>();
  pool.for_each((n + kChannelsPerUnit - 1) / kChannelsPerUnit, [&](std::int64_t unit) {
    const std::int64_t first = unit * kChannelsPerUnit, last = std::min(n, first + kChannelsPerUnit);
    for (std::int64_t i = first; i < last; ++i) out[i * n + i] = 0;
    for (std::int64_t j = first + 1; j < n; ++j) {
      for (std::int64_t i = first; i < std::min(last, j); ++i)
        out[i * n + j] = out[j * n + i] = static_cast<float>(binned.information(i, j));
    }
  });
  return result;
}

}  // namespace miq
