// Units of 32 channels, each walked over the part's tokens in order: one running double a channel.
#include "miq/compress/channel_statistics.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "miq/base/error.h"
#include "miq/compress/exact_sums.h"

namespace miq {
namespace {

constexpr std::int64_t kChannelsPerUnit = 32;

struct BFloat16Bits {
  std::uint16_t bits;
  float value() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};
struct Float32Bits {
  float bits;
  float value() const { return bits; }
};

struct Sums {
  double sum[kChannelsPerUnit], sum_abs[kChannelsPerUnit], sum_squares[kChannelsPerUnit], sum_fourths[kChannelsPerUnit];
};

template <typename Element>
__attribute__((always_inline)) inline void add_tokens(const Element* x, std::int64_t tokens, std::int64_t stride, std::int64_t count,
                                                      Sums& s) {
  for (std::int64_t t = 0; t < tokens; ++t, x += stride) {
    for (std::int64_t c = 0; c < count; ++c) {
      const double value = x[c].value();
      const double square = value * value;
      s.sum[c] += value;
      s.sum_abs[c] += std::abs(value);
      s.sum_squares[c] += square;
      s.sum_fourths[c] += square * square;
    }
  }
}

__attribute__((target_clones("avx512f", "avx2", "default"))) void add_tokens_f32(const Float32Bits* x, std::int64_t tokens,
                                                                                std::int64_t stride, std::int64_t count, Sums& s) {
  if (count == kChannelsPerUnit) return add_tokens(x, tokens, stride, kChannelsPerUnit, s);
  add_tokens(x, tokens, stride, count, s);
}

__attribute__((target_clones("avx512f", "avx2", "default"))) void add_tokens_bf16(const BFloat16Bits* x, std::int64_t tokens,
                                                                                 std::int64_t stride, std::int64_t count, Sums& s) {
  if (count == kChannelsPerUnit) return add_tokens(x, tokens, stride, kChannelsPerUnit, s);
  add_tokens(x, tokens, stride, count, s);
}

std::vector<double> divided(const std::vector<double>& sums, std::int64_t tokens) {
  std::vector<double> means(sums);
  for (double& value : means) value = tokens > 0 ? to_24_bits(value) / static_cast<double>(tokens) : 0;
  return means;
}

}  // namespace

std::vector<double> ChannelStatistics::mean() const { return divided(sum, tokens); }
std::vector<double> ChannelStatistics::mean_abs() const { return divided(sum_abs, tokens); }
std::vector<double> ChannelStatistics::second_moment() const { return divided(sum_squares, tokens); }
std::vector<double> ChannelStatistics::fourth_moment() const { return divided(sum_fourths, tokens); }

namespace {

// Refuses what does not fit; returns the number of tokens.
std::int64_t begin(ChannelStatistics& s, const at::Tensor& inputs) {
  if (inputs.dim() < 1 || !inputs.is_contiguous()) throw Error("channel statistics need a contiguous tensor");
  if (inputs.scalar_type() != at::kBFloat16 && inputs.scalar_type() != at::kFloat)
    throw Error("channel statistics take float32 or bfloat16 activations only");
  const std::int64_t channels = inputs.size(-1);
  if (s.sum.empty() && s.tokens == 0) {
    for (auto* sums : {&s.sum, &s.sum_abs, &s.sum_squares, &s.sum_fourths}) sums->assign(static_cast<std::size_t>(channels), 0.0);
  } else if (s.channels() != channels) {
    throw Error("channel statistics were begun with " + std::to_string(s.channels()) + " channels and now get " + std::to_string(channels));
  }
  return channels > 0 ? inputs.numel() / channels : 0;
}

}  // namespace

void accumulate_on_device(ChannelStatistics& statistics, const at::Tensor& inputs) {
  const at::NoGradGuard no_grad;
  const std::int64_t tokens = begin(statistics, inputs), channels = inputs.size(-1);
  const at::Tensor x = inputs.reshape({tokens, channels}).to(at::kDouble), squares = x.square();
  const at::Tensor sums = at::stack({x.sum(0), x.abs().sum(0), squares.sum(0), squares.square().sum(0)}).to(at::kCPU);
  const double* in = sums.const_data_ptr<double>();
  for (auto* out : {&statistics.sum, &statistics.sum_abs, &statistics.sum_squares, &statistics.sum_fourths}) {
    for (double& value : *out) value += to_24_bits(*in++);
  }
  statistics.tokens += tokens;
}

void accumulate(ChannelStatistics& statistics, const at::Tensor& inputs, ThreadPool& pool) {
  if (!inputs.is_cpu()) return accumulate_on_device(statistics, inputs);
  ChannelStatistics& s = statistics;
  const std::int64_t tokens = begin(s, inputs), channels = inputs.size(-1);
  const bool bf16 = inputs.scalar_type() == at::kBFloat16;
  const void* data = inputs.const_data_ptr();
  const std::int64_t units = (channels + kChannelsPerUnit - 1) / kChannelsPerUnit;
  pool.for_each(units, [&](std::int64_t unit) {
    const std::int64_t first = unit * kChannelsPerUnit;
    const std::int64_t count = std::min(kChannelsPerUnit, channels - first);
    Sums part{};
    if (bf16) {
      add_tokens_bf16(static_cast<const BFloat16Bits*>(data) + first, tokens, channels, count, part);
    } else {
      add_tokens_f32(static_cast<const Float32Bits*>(data) + first, tokens, channels, count, part);
    }
    for (std::int64_t c = 0; c < count; ++c) {
      const auto j = static_cast<std::size_t>(first + c);
      s.sum[j] += to_24_bits(part.sum[c]);
      s.sum_abs[j] += to_24_bits(part.sum_abs[c]);
      s.sum_squares[j] += to_24_bits(part.sum_squares[c]);
      s.sum_fourths[j] += to_24_bits(part.sum_fourths[c]);
    }
  });
  s.tokens += tokens;
}

}  // namespace miq
