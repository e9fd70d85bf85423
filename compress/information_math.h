// The arithmetic of mutual information between two channels (mutual_information.h), shared by the CPU and the kernels. C++17, because nvcc compiles it.
#pragma once

#include <cmath>
#include <cstdint>

#include "miq/formats/scale_code.h"

namespace miq {

constexpr double kLargestSquaredCorrelation = 1 - 1e-6;
constexpr double kSmallestVariance = 1e-12;

MIQ_HOST_DEVICE double inverse_deviation(double second_moment, double mean) {
  const double variance = second_moment - mean * mean;
  return variance > kSmallestVariance ? 1 / sqrt(variance) : 0;
}

MIQ_HOST_DEVICE double correlation(double product, double mean_i, double mean_j, double inverse_i, double inverse_j) {
  return (product - mean_i * mean_j) * inverse_i * inverse_j;
}

MIQ_HOST_DEVICE double information_of(double rho) {
  const double square = rho * rho;
  return -0.5 * log1p(-(square < kLargestSquaredCorrelation ? square : kLargestSquaredCorrelation));
}

constexpr int kBinsOfChannel = 8;

// From the sum of n ln n over pairs of bins and over the bins of each channel, and how many of them hold anything.
MIQ_HOST_DEVICE double binned_information_of(double pair_logs, double logs_i, double logs_j, double logs_all, int pairs, int occupied_i,
                                             int occupied_j, double samples) {
  const double plug_in = (pair_logs - logs_i - logs_j + logs_all) / samples;
  const double corrected = plug_in + (occupied_i + occupied_j - pairs - 1) / (2 * samples);
  return corrected > 0 ? corrected : 0;
}

// The same from the counts of all pairs of bins, [8 * 8].
template <typename Count>
MIQ_HOST_DEVICE double binned_information_of(const Count* counts, const double* log_table, std::int64_t samples, double logs_i, double logs_j,
                                             int occupied_i, int occupied_j) {
  double logs = 0;
  int pairs = 0;
  for (int p = 0; p < kBinsOfChannel * kBinsOfChannel; ++p) {
    logs += log_table[counts[p]];
    pairs += counts[p] > 0;
  }
  return binned_information_of(logs, logs_i, logs_j, log_table[samples], pairs, occupied_i, occupied_j, static_cast<double>(samples));
}

}  // namespace miq
