// Frequencies are computed in double and rounded once; the angle is a float32 product, as the models
// were trained with, and only its cosine and sine are taken in double. The llama3 rule is that of
// transformers' modeling_rope_utils.py: long wavelengths are divided by the factor, short ones kept, and
// those between blended. Yarn (Peng et al. 2023, arXiv:2309.00071) blends by dimension instead, along a ramp
// between two numbers of turns within the original length, and scales cosines and sines. The dynamic kinds
// raise the base for texts beyond the original length.
#include "miq/model/rope.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace miq {
namespace {

double scale_llama3(double frequency, const RopeScaling& scaling) {
  const double original = static_cast<double>(scaling.original_max_positions);
  const double wavelength = 2 * std::numbers::pi / frequency;
  const double low = original / scaling.low_frequency_factor, high = original / scaling.high_frequency_factor;
  if (wavelength < high) return frequency;
  if (wavelength > low) return frequency / scaling.factor;
  const double smooth =
      (original / wavelength - scaling.low_frequency_factor) / (scaling.high_frequency_factor - scaling.low_frequency_factor);
  return (1 - smooth) * frequency / scaling.factor + smooth * frequency;
}

// How far pair `i` is interpolated by yarn: 0 as trained, 1 divided by the factor.
double yarn_ramp(std::int64_t i, std::int64_t head_dim, double theta, const RopeScaling& scaling) {
  const auto dimension = [&](double turns) {
    const double original = static_cast<double>(scaling.original_max_positions);
    return static_cast<double>(head_dim) * std::log(original / (turns * 2 * std::numbers::pi)) / (2 * std::log(theta));
  };
  double low = dimension(scaling.beta_fast), high = dimension(scaling.beta_slow);
  if (scaling.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(head_dim - 1));
  if (low == high) high += 0.001;
  return std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
}

RopeTable make_table(const std::vector<float>& frequencies, std::int64_t tokens, double factor) {
  const auto half = static_cast<std::int64_t>(frequencies.size());
  RopeTable table{at::empty({tokens, half}), at::empty({tokens, half}), {}};
  float* cosines = table.cosines.data_ptr<float>();
  float* sines = table.sines.data_ptr<float>();
  for (std::int64_t token = 0; token < tokens; ++token) {
    for (std::int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<float>(token) * frequencies[static_cast<std::size_t>(i)];
      cosines[token * half + i] = static_cast<float>(std::cos(angle) * factor);
      sines[token * half + i] = static_cast<float>(std::sin(angle) * factor);
    }
  }
  return table;
}

at::Tensor make_query_factors(std::int64_t tokens, std::int64_t from) {
  at::Tensor factors = at::empty({tokens, 1});
  for (std::int64_t token = 0; token < tokens; ++token) {
    const double factor = token + 1 > from ? std::log(static_cast<double>(token + 1)) / std::log(static_cast<double>(from)) : 1;
    factors.data_ptr<float>()[token] = static_cast<float>(factor);
  }
  return factors;
}

}  // namespace

double rope_base(std::int64_t head_dim, double theta, const RopeScaling& scaling, std::int64_t tokens) {
  if (tokens <= scaling.original_max_positions || head_dim <= 2) return theta;
  const double stretch = static_cast<double>(tokens) / static_cast<double>(scaling.original_max_positions);
  double grown = 1;
  if (scaling.kind == RopeScaling::Kind::Dynamic) grown = scaling.factor * stretch - (scaling.factor - 1);
  if (scaling.kind == RopeScaling::Kind::QwenDynamic) grown = std::exp2(std::ceil(std::log2(stretch) + 1)) - 1;
  return theta * std::pow(grown, static_cast<double>(head_dim) / static_cast<double>(head_dim - 2));
}

std::vector<float> rope_inverse_frequencies(std::int64_t head_dim, double theta, const RopeScaling& scaling, std::int64_t tokens) {
  std::vector<float> frequencies(static_cast<std::size_t>(head_dim / 2));
  const double base = rope_base(head_dim, theta, scaling, tokens);
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    double frequency = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    switch (scaling.kind) {
      case RopeScaling::Kind::None:
      case RopeScaling::Kind::Dynamic:
      case RopeScaling::Kind::QwenDynamic: break;
      case RopeScaling::Kind::Linear: frequency /= scaling.factor; break;
      case RopeScaling::Kind::Llama3: frequency = scale_llama3(frequency, scaling); break;
      case RopeScaling::Kind::Yarn: {
        const double ramp = yarn_ramp(static_cast<std::int64_t>(i), head_dim, theta, scaling);
        frequency *= ramp / scaling.factor + (1 - ramp);
        break;
      }
    }
    frequencies[i] = static_cast<float>(frequency);
  }
  return frequencies;
}

RopeTable RopeTables::table(std::int64_t head_dim, std::int64_t tokens) {
  std::lock_guard lock(mutex_);
  RopeTable& kept = tables_[{head_dim, rope_base(head_dim, theta_, scaling_, tokens)}];
  if (!kept.cosines.defined() || kept.cosines.size(0) < tokens) {
    const double factor = scaling_.kind == RopeScaling::Kind::Yarn ? scaling_.attention_factor : 1;
    kept = make_table(rope_inverse_frequencies(head_dim, theta_, scaling_, tokens), std::max<std::int64_t>(tokens, 64), factor);
    kept.cosines = kept.cosines.to(device_);
    kept.sines = kept.sines.to(device_);
  }
  RopeTable table{kept.cosines.narrow(0, 0, tokens), kept.sines.narrow(0, 0, tokens), {}};
  if (log_scaled_from_ > 1 && tokens > log_scaled_from_) table.query_factors = make_query_factors(tokens, log_scaled_from_).to(device_);
  return table;
}

}  // namespace miq
