// Row by row over the upper triangle, in double, mirrored: each pair is computed once, by the unit that owns its lower channel.
#include "miq/compress/mutual_information.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "miq/base/cuda_library.h"
#include "miq/base/error.h"
#include "miq/compress/information_math.h"
#include "miq/compress/not_finite.h"

namespace miq {
namespace {

constexpr std::int64_t kRowsPerUnit = 16;

std::int64_t units_of(std::int64_t rows) { return (rows + kRowsPerUnit - 1) / kRowsPerUnit; }

std::int64_t checked_square(const at::Tensor& matrix, const char* what, at::Device device = at::kCPU) {
  if (!matrix.defined() || matrix.dim() != 2 || matrix.size(0) != matrix.size(1))
    throw Error(std::string(what) + " must be a square matrix");
  if (matrix.device().type() != device.type() || (matrix.scalar_type() != at::kFloat && matrix.scalar_type() != at::kDouble))
    throw Error(std::string(what) + " must be float32 or float64 on " + (device.is_cpu() ? "the CPU" : "the device"));
  return matrix.size(0);
}

template <typename Element>
void fill_information(const Element* h, std::span<const double> mean, float* out, ThreadPool& pool) {
  const auto n = static_cast<std::int64_t>(mean.size());
  std::vector<double> inverse(mean.size());
  for (std::int64_t i = 0; i < n; ++i) inverse[i] = inverse_deviation(h[i * n + i], mean[i]);
  pool.for_each(units_of(n), [&](std::int64_t unit) {
    for (std::int64_t i = unit * kRowsPerUnit; i < std::min(n, (unit + 1) * kRowsPerUnit); ++i) {
      out[i * n + i] = 0;
      for (std::int64_t j = i + 1; j < n; ++j) {
        const double rho = correlation(h[i * n + j], mean[i], mean[j], inverse[i], inverse[j]);
        out[i * n + j] = out[j * n + i] = static_cast<float>(information_of(rho));
        if (!std::isfinite(rho))
          throw NotFinite("mutual information: the second moments of channels " + std::to_string(i) + " and " + std::to_string(j) +
                      " are not finite");
      }
    }
  });
}

at::Tensor information_on_device(const at::Tensor& h, std::span<const double> mean, const ComputeDevice& where) {
  const auto n = static_cast<std::int64_t>(mean.size());
  const at::Tensor diagonal = h.diagonal().to(at::kCPU, at::kDouble).contiguous();
  at::Tensor factors = at::empty({2, n}, at::kDouble);  // means and inverse deviations
  double* values = factors.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < n; ++i) {
    values[i] = mean[static_cast<std::size_t>(i)];
    values[n + i] = inverse_deviation(diagonal.const_data_ptr<double>()[i], values[i]);
  }
  factors = factors.to(where.device);
  const double* on_device = factors.const_data_ptr<double>();
  at::Tensor out = at::empty({n, n}, at::TensorOptions(at::kFloat).device(where.device));
  const at::Tensor bad = at::zeros({1}, at::TensorOptions(at::kInt).device(where.device));
  check_cuda(*where.kernels,
             where.kernels->gaussian_information(where.index(), h.const_data_ptr(), h.scalar_type() == at::kDouble, on_device, on_device + n, n,
                                                 out.mutable_data_ptr<float>(), bad.mutable_data_ptr<std::int32_t>()),
             "mutual information");
  if (bad.item<std::int32_t>() != 0) throw NotFinite("mutual information: the second moments of the channels are not finite");
  return out;
}

struct PairSums {
  double within = 0, between = 0, largest = 0;
  std::int64_t pairs_within = 0, pairs_between = 0;
};

double ratio(double sum, std::int64_t count) { return count > 0 ? sum / static_cast<double>(count) : 0; }

}  // namespace

std::string_view mi_estimator_name(MiEstimator estimator) { return estimator == MiEstimator::Gaussian ? "gaussian" : "binned"; }

at::Tensor gaussian_mutual_information(const at::Tensor& second_moment, std::span<const double> mean, ThreadPool& pool, const ComputeDevice& where) {
  const std::int64_t n = checked_square(second_moment, "mutual information: the second moment", where.device);
  if (static_cast<std::int64_t>(mean.size()) != n)
    throw Error("mutual information: " + std::to_string(n) + " channels but " + std::to_string(mean.size()) + " means");
  const at::Tensor h = second_moment.contiguous();
  if (where.used()) return information_on_device(h, mean, where);
  at::Tensor out = at::empty({n, n}, at::kFloat);
  if (h.scalar_type() == at::kFloat) {
    fill_information(h.const_data_ptr<float>(), mean, out.data_ptr<float>(), pool);
  } else {
    fill_information(h.const_data_ptr<double>(), mean, out.data_ptr<float>(), pool);
  }
  return out;
}

MutualInformationSummary summarize(const at::Tensor& mutual_information, std::span<const std::int32_t> group, ThreadPool& pool) {
  const std::int64_t n = checked_square(mutual_information, "summary of mutual information: the argument");
  if (static_cast<std::int64_t>(group.size()) != n) throw Error("summary of mutual information: one group a channel is needed");
  const at::Tensor matrix = mutual_information.to(at::kFloat).contiguous();
  const float* values = matrix.const_data_ptr<float>();
  std::vector<PairSums> parts(static_cast<std::size_t>(units_of(n)));
  pool.for_each(units_of(n), [&](std::int64_t unit) {
    PairSums sums;
    for (std::int64_t i = unit * kRowsPerUnit; i < std::min(n, (unit + 1) * kRowsPerUnit); ++i) {
      for (std::int64_t j = i + 1; j < n; ++j) {
        const double value = values[i * n + j];
        const bool same = group[i] == group[j];
        (same ? sums.within : sums.between) += value;
        ++(same ? sums.pairs_within : sums.pairs_between);
        sums.largest = std::max(sums.largest, value);
      }
    }
    parts[static_cast<std::size_t>(unit)] = sums;
  });
  PairSums all;
  for (const PairSums& part : parts) {
    all.within += part.within, all.between += part.between;
    all.pairs_within += part.pairs_within, all.pairs_between += part.pairs_between;
    all.largest = std::max(all.largest, part.largest);
  }
  return {ratio(all.within + all.between, all.pairs_within + all.pairs_between), all.largest, ratio(all.within, all.pairs_within),
          ratio(all.between, all.pairs_between)};
}

std::vector<double> information_within(const at::Tensor& mutual_information, std::span<const std::int32_t> group, std::int64_t groups) {
  const std::int64_t n = checked_square(mutual_information, "information within groups: the argument");
  if (static_cast<std::int64_t>(group.size()) != n) throw Error("information within groups: one group a channel is needed");
  const at::Tensor matrix = mutual_information.to(at::kFloat).contiguous();
  const float* values = matrix.const_data_ptr<float>();
  std::vector<double> sums(static_cast<std::size_t>(groups), 0.0);
  std::vector<std::int64_t> pairs(sums.size(), 0);
  for (std::int64_t i = 0; i < n; ++i) {
    const auto g = static_cast<std::size_t>(group[i]);
    if (group[i] < 0 || g >= sums.size()) throw Error("information within groups: a channel's group is out of range");
    for (std::int64_t j = i + 1; j < n; ++j) {
      if (group[i] == group[j]) sums[g] += values[i * n + j], ++pairs[g];
    }
  }
  for (std::size_t g = 0; g < sums.size(); ++g) sums[g] = ratio(sums[g], pairs[g]);
  return sums;
}

std::vector<float> information_blocks(const at::Tensor& mutual_information, std::span<const std::int32_t> group, std::int64_t groups,
                                      ThreadPool& pool) {
  const std::int64_t n = checked_square(mutual_information, "information between groups: the argument");
  if (static_cast<std::int64_t>(group.size()) != n || groups < 1) throw Error("information between groups: one group a channel is needed");
  const std::int64_t blocks = std::min(groups, kInformationBlocksKept);
  std::vector<std::size_t> block(group.size());
  std::vector<double> channels(static_cast<std::size_t>(blocks));
  for (std::size_t i = 0; i < block.size(); ++i) {
    if (group[i] < 0 || group[i] >= groups) throw Error("information between groups: a channel's group is out of range");
    block[i] = static_cast<std::size_t>(group[i] * blocks / groups);
    ++channels[block[i]];
  }
  const at::Tensor matrix = mutual_information.to(at::kFloat).contiguous();
  const float* values = matrix.const_data_ptr<float>();
  // Row sums by block of the column, one row a channel; then rows of a block together, in order.
  std::vector<double> rows(static_cast<std::size_t>(n * blocks));
  pool.for_each(units_of(n), [&](std::int64_t unit) {
    for (std::int64_t i = unit * kRowsPerUnit; i < std::min(n, (unit + 1) * kRowsPerUnit); ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        if (j != i) rows[static_cast<std::size_t>(i * blocks) + block[static_cast<std::size_t>(j)]] += values[i * n + j];
      }
    }
  });
  const auto side = static_cast<std::size_t>(blocks);
  std::vector<double> sums(side * side);
  for (std::size_t i = 0; i < block.size(); ++i) {
    for (std::size_t b = 0; b < side; ++b) sums[block[i] * side + b] += rows[i * side + b];
  }
  std::vector<float> means(sums.size());
  for (std::size_t a = 0; a < side; ++a) {
    for (std::size_t b = 0; b < side; ++b) {
      const double pairs = channels[a] * (channels[b] - (a == b ? 1 : 0));
      // Both triangles from one sum: a sum in another order may differ in its last bit.
      means[a * side + b] = pairs > 0 ? static_cast<float>(sums[std::min(a, b) * side + std::max(a, b)] / pairs) : 0.0f;
    }
  }
  return means;
}

}  // namespace miq
