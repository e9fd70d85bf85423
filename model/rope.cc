// Frequencies are computed in double and rounded once; the angle is a float32 product, as the models
// were trained with, and only its cosine and sine are taken in double. The llama3 rule is that of
// transformers' modeling_rope_utils.py: long wavelengths are divided by the factor, short ones kept, and
// those between blended.
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

RopeTable make_table(const std::vector<float>& frequencies, std::int64_t tokens) {
  const auto half = static_cast<std::int64_t>(frequencies.size());
  RopeTable table{at::empty({tokens, half}), at::empty({tokens, half})};
  float* cosines = table.cosines.data_ptr<float>();
  float* sines = table.sines.data_ptr<float>();
  for (std::int64_t token = 0; token < tokens; ++token) {
    for (std::int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<float>(token) * frequencies[static_cast<std::size_t>(i)];
      cosines[token * half + i] = static_cast<float>(std::cos(angle));
      sines[token * half + i] = static_cast<float>(std::sin(angle));
    }
  }
  return table;
}

}  // namespace

std::vector<float> rope_inverse_frequencies(std::int64_t head_dim, double theta, const RopeScaling& scaling) {
  std::vector<float> frequencies(static_cast<std::size_t>(head_dim / 2));
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    switch (scaling.kind) {
      case RopeScaling::Kind::None: break;
      case RopeScaling::Kind::Linear: frequency /= scaling.factor; break;
      case RopeScaling::Kind::Llama3: frequency = scale_llama3(frequency, scaling); break;
    }
    frequencies[i] = static_cast<float>(frequency);
  }
  return frequencies;
}

RopeTable RopeTables::table(std::int64_t head_dim, std::int64_t tokens) {
  std::lock_guard lock(mutex_);
  RopeTable& kept = tables_[head_dim];
  if (!kept.cosines.defined() || kept.cosines.size(0) < tokens) {
    kept = make_table(rope_inverse_frequencies(head_dim, theta_, scaling_), std::max<std::int64_t>(tokens, 64));
  }
  return {kept.cosines.narrow(0, 0, tokens), kept.sines.narrow(0, 0, tokens)};
}

}  // namespace miq
