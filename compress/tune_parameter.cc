// A scale's relative gradient is that of the decoded weights times the weights, summed over its (row, group): w = s (code - zero), so
// s dL/ds = sum of w dL/dw; pruned weights are zero and add nothing. Rounding to what can be stored is passed over, as usual.
#include "miq/compress/tune_parameter.h"

#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "miq/model/forward.h"

namespace miq {
namespace {
constexpr double kBeta1 = 0.9, kBeta2 = 0.99;
constexpr float kEpsilon = 1e-12f;
constexpr float kLargestChange = 0.5f;
constexpr float kSmallestHalf = 0x1p-14f;  // the smallest normal F16 number; scales near it stay what they are
}  // namespace

void TuneParameter::init(std::size_t size) {
  theta_.assign(size, 0.0f);
  mean_ = square_ = best_ = theta_;
}

TuneParameter TuneParameter::gains(std::string name, std::string rule, const Tensor& tensor) {
  TuneParameter p(std::move(name), std::move(rule));
  const at::Tensor values = to_torch(tensor, p.name_, at::kFloat).contiguous();
  p.first_.assign(values.const_data_ptr<float>(), values.const_data_ptr<float>() + values.numel());
  p.init(p.first_.size());
  return p;
}

TuneParameter TuneParameter::scales(std::string name, std::string rule, const Tensor& tensor, bool rows) {
  TuneParameter p(std::move(name), std::move(rule));
  p.matrix_ = unpack(tensor, p.name_);
  p.matrix_.codes = {};
  p.matrix_.zeros = {};
  p.matrix_.kept = {};
  p.first_ = p.matrix_.scales;
  p.rows_ = rows;
  p.init(rows ? static_cast<std::size_t>(p.matrix_.rows) : p.first_.size());
  return p;
}

std::vector<float> TuneParameter::reduce(const at::Tensor& gradient, const at::Tensor& values) const {
  const at::Tensor product = (gradient.to(at::kFloat) * values).contiguous();
  const float* from = product.const_data_ptr<float>();
  std::vector<float> sums(theta_.size(), 0.0f);
  if (!is_scales()) {
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] = from[i] / (1 + theta_[i]);
    return sums;
  }
  const auto rows = static_cast<std::size_t>(matrix_.rows), groups = static_cast<std::size_t>(matrix_.groups());
  std::vector<float> of_group(groups);
  for (std::size_t r = 0; r < rows; ++r, from += matrix_.cols) {
    std::fill(of_group.begin(), of_group.end(), 0.0f);
    for (std::size_t c = 0; c < matrix_.group_of_column.size(); ++c) of_group[matrix_.group_of_column[c]] += from[c];
    for (std::size_t g = 0; g < groups; ++g) {
      const std::size_t at = rows_ ? r : g * rows + r;
      sums[at] += of_group[g] / (1 + theta_[at]);
    }
  }
  return sums;
}

void TuneParameter::step(std::span<const float> gradient, double rate, std::int64_t t) {
  const auto scale = static_cast<float>(rate / (1 - std::pow(kBeta1, static_cast<double>(t))));
  const auto root = static_cast<float>(1 / std::sqrt(1 - std::pow(kBeta2, static_cast<double>(t))));
  constexpr auto kOne = static_cast<float>(kBeta1), kTwo = static_cast<float>(kBeta2);
  for (std::size_t i = 0; i < theta_.size(); ++i) {
    const float g = gradient[i];
    mean_[i] = kOne * mean_[i] + (1 - kOne) * g;
    square_[i] = kTwo * square_[i] + (1 - kTwo) * g * g;
    const float moved = theta_[i] - scale * mean_[i] / (root * std::sqrt(square_[i]) + kEpsilon);
    theta_[i] = std::isfinite(moved) ? std::clamp(moved, -kLargestChange, kLargestChange) : theta_[i];
  }
}

void TuneParameter::store(Tensor& tensor) const {
  std::vector<float> values(first_.size());
  const std::size_t rows = static_cast<std::size_t>(matrix_.rows);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float theta = theta_[rows_ ? i % rows : i];
    values[i] = first_[i] * (1 + theta);
    if (!is_scales()) continue;
    const bool moves = theta != 0 && first_[i] > (matrix_.scale_dtype == DType::F16 ? 4 * kSmallestHalf : 0);
    values[i] = moves ? nearest_scale(matrix_, static_cast<std::int64_t>(i / rows), static_cast<std::int64_t>(i % rows), values[i]) : first_[i];
  }
  if (is_scales()) {
    PackedMatrix matrix = matrix_;
    matrix.scales = std::move(values);
    replace_scales(tensor, matrix);
    return;
  }
  std::vector<std::uint8_t> bytes(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  tensor = dense_tensor(DType::F32, tensor.shape, Blob(std::move(bytes)));
}

}  // namespace miq
