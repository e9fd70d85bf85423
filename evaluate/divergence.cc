// KL(p || q) of softmax(a) and softmax(b) from one pass over both rows: with w = e^(a - max a), v = e^(b - max b),
//   KL = sum w (a - b) / sum w - log sum e^a + log sum e^b.
// The difference a - b is taken relative to its value at a's maximum, so that a common shift of the logits costs no accuracy.
// Exponentials in float32 by a polynomial (relative error 2e-7), sums in double, 16 partial sums in a fixed tree.
#include "miq/evaluate/divergence.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "miq/base/error.h"

namespace miq {
namespace {

constexpr std::int64_t kLanes = 16;
// Logits of one side that exist at once, and the rows that its products like (bf16_product.h).
constexpr std::int64_t kBlockValues = std::int64_t{1} << 22, kBlockRows = 12, kMostRows = 96;

// e^x for x <= 88; 0 is reached at -87.
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to the nearest integer, which are its low bits
  const float rounded = x * 1.44269504088896341f + kRounder;
  const float n = rounded - kRounder;
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 0.0013814539415761828f;
  p = p * r + 0.00836874544620514f;
  p = p * r + 0.04166838899254799f;
  p = p * r + 0.1666652113199234f;
  p = p * r + 0.4999999403953552f;
  p = r * r * p + (r + 1.0f);
  // By bits: a conversion of NaN, which a broken model's logits are, is undefined.
  return p * std::bit_cast<float>((std::bit_cast<std::uint32_t>(rounded) - std::bit_cast<std::uint32_t>(kRounder) + 127) << 23);
}

double tree_sum(const double* lanes) {
  double pairs[kLanes];
  std::copy_n(lanes, kLanes, pairs);
  for (std::int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::int64_t l = 0; l < half; ++l) pairs[l] += pairs[l + half];
  }
  return pairs[0];
}

__attribute__((target_clones("avx512f", "avx2", "default"))) float largest(const float* x, std::int64_t n) {
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, -std::numeric_limits<float>::infinity());
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::int64_t l = 0; l < kLanes; ++l) lanes[l] = x[i + l] > lanes[l] ? x[i + l] : lanes[l];
  }
  float top = -std::numeric_limits<float>::infinity();
  for (float lane : lanes) top = std::max(top, lane);
  for (; i < n; ++i) top = std::max(top, x[i]);
  return top;
}

struct RowSums {
  double reference = 0, other = 0, difference = 0;  // sum w, sum v, sum w (a - b - shift)
};

__attribute__((target_clones("avx512f", "avx2", "default"))) void row_sums(const float* a, const float* b, std::int64_t n, float top_a,
                                                                            float top_b, float shift, RowSums& sums) {
  double w_sum[kLanes] = {}, v_sum[kLanes] = {}, d_sum[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    float w[kLanes], v[kLanes], d[kLanes];
    for (std::int64_t l = 0; l < kLanes; ++l) {
      w[l] = exponential(a[i + l] - top_a);
      v[l] = exponential(b[i + l] - top_b);
      d[l] = w[l] * (a[i + l] - b[i + l] - shift);
    }
    for (std::int64_t l = 0; l < kLanes; ++l) w_sum[l] += static_cast<double>(w[l]);
    for (std::int64_t l = 0; l < kLanes; ++l) v_sum[l] += static_cast<double>(v[l]);
    for (std::int64_t l = 0; l < kLanes; ++l) d_sum[l] += static_cast<double>(d[l]);
  }
  for (std::int64_t l = 0; i < n; ++i, ++l) {
    const float w = exponential(a[i] - top_a);
    w_sum[l] += static_cast<double>(w);
    v_sum[l] += static_cast<double>(exponential(b[i] - top_b));
    d_sum[l] += static_cast<double>(w * (a[i] - b[i] - shift));
  }
  sums = {tree_sum(w_sum), tree_sum(v_sum), tree_sum(d_sum)};
}

std::int64_t place_of(const float* x, std::int64_t n, float value) { return std::find(x, x + n, value) - x; }

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

// Of the mean.
double error_of(const std::vector<double>& values, double mean) {
  if (values.size() < 2) return 0;
  double spread = 0;
  for (double value : values) spread += (value - mean) * (value - mean);
  const auto count = static_cast<double>(values.size());
  return std::sqrt(spread / (count - 1) / count);
}

double percentile(const std::vector<double>& sorted, double fraction) {
  const double place = fraction * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  if (below + 1 >= sorted.size()) return sorted.back();
  const double share = place - static_cast<double>(below);
  return (1 - share) * sorted[below] + share * sorted[below + 1];
}

double correlation(const std::vector<double>& x, const std::vector<double>& y) {
  const double mean_x = mean_of(x), mean_y = mean_of(y);
  double xx = 0, yy = 0, xy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xx += (x[i] - mean_x) * (x[i] - mean_x);
    yy += (y[i] - mean_y) * (y[i] - mean_y);
    xy += (x[i] - mean_x) * (y[i] - mean_y);
  }
  return xy / std::sqrt(xx * yy);
}

std::int64_t scored(const Window& window) { return std::max<std::int64_t>(0, static_cast<std::int64_t>(window.length) - 1 - window.first); }

}  // namespace

void token_divergence(const float* reference, const float* other, std::int64_t rows, std::int64_t vocabulary, TokenDivergence& to) {
  for (std::int64_t row = 0; row < rows; ++row, reference += vocabulary, other += vocabulary) {
    const float top_a = largest(reference, vocabulary), top_b = largest(other, vocabulary);
    const std::int64_t place = place_of(reference, vocabulary, top_a);
    if (!std::isfinite(top_a) || !std::isfinite(top_b)) {
      to.divergence.push_back(std::numeric_limits<float>::quiet_NaN());
      to.same_top.push_back(0);
      continue;
    }
    const float shift = reference[place] - other[place];
    RowSums sums;
    row_sums(reference, other, vocabulary, top_a, top_b, shift, sums);
    const double log_ratio = std::log(sums.other / sums.reference) + (static_cast<double>(top_b) - static_cast<double>(top_a));
    const double divergence = sums.difference / sums.reference + static_cast<double>(shift) + log_ratio;
    to.divergence.push_back(static_cast<float>(divergence < 0 ? 0 : divergence));  // NaN stays
    to.same_top.push_back(place == place_of(other, vocabulary, top_b) ? 1 : 0);
  }
}

Divergence summarise_divergence(const WindowPlan& plan, const std::vector<TokenDivergence>& tokens, const std::vector<std::vector<float>>& losses,
                                const std::vector<std::vector<float>>& reference_losses) {
  std::vector<double> values, mine, theirs, differences;
  std::int64_t agreeing = 0;
  for (std::size_t w = 0; w < plan.windows.size(); ++w) {
    const auto ids = plan.ids(plan.windows[w]);
    for (std::size_t i = 0; i < tokens[w].divergence.size(); ++i) {
      const std::int32_t target = ids[static_cast<std::size_t>(plan.windows[w].first) + i + 1];
      if (plan.ignored_target && target == *plan.ignored_target) continue;
      values.push_back(static_cast<double>(tokens[w].divergence[i]));
      mine.push_back(static_cast<double>(losses[w][i]));
      theirs.push_back(static_cast<double>(reference_losses[w][i]));
      differences.push_back(mine.back() - theirs.back());
      agreeing += tokens[w].same_top[i];
    }
  }
  Divergence result;
  result.tokens = static_cast<std::int64_t>(values.size());
  if (values.empty()) {
    result.failure = "no token is scored";
    return result;
  }
  const bool finite = std::all_of(values.begin(), values.end(), [](double value) { return std::isfinite(value); }) &&
                      std::all_of(differences.begin(), differences.end(), [](double value) { return std::isfinite(value); });
  if (!finite) {
    result.failure = "logits or losses are not finite";
    return result;
  }
  result.mean = mean_of(values);
  result.standard_error = error_of(values, result.mean);
  result.same_top = static_cast<double>(agreeing) / static_cast<double>(values.size());
  if (values.size() > 1) result.same_top_error = std::sqrt(result.same_top * (1 - result.same_top) / static_cast<double>(values.size() - 1));
  result.loss_correlation = correlation(mine, theirs);
  result.log_ratio = mean_of(differences);
  result.log_ratio_error = error_of(differences, result.log_ratio);
  std::sort(values.begin(), values.end());
  result.median = percentile(values, 0.5);
  result.percentile_90 = percentile(values, 0.9);
  result.percentile_99 = percentile(values, 0.99);
  result.maximum = values.back();
  return result;
}

DivergenceReference::DivergenceReference(std::string name, std::shared_ptr<const Model> model, ComputeType type, ScratchFolder scratch, at::Device device,
                                         const MiqCudaTable* kernels)
    : name_(std::move(name)), model_(std::move(model)), type_(type), scratch_(std::move(scratch)), device_(device), kernels_(kernels) {}

ForwardPass& DivergenceReference::forward() {
  if (!forward_) forward_ = std::make_unique<ForwardPass>(*model_, type_, Kernels::Best, device_, kernels_);
  return *forward_;
}

const PlannedTexts& DivergenceReference::planned(const std::vector<Text>& texts, const PerplexityOptions& options, ThreadPool& pool) {
  if (!planned_) {
    planned_ = plan_texts(*model_, texts, options, pool);
    rooms_.resize(texts.size());
    for (std::size_t t = 0; t < texts.size(); ++t) {
      std::int64_t row = 0;
      for (const Window& window : planned_->plans[t].windows) {
        rooms_[t].starts.push_back(row);
        row += scored(window);
      }
      rooms_[t].starts.push_back(row);
      rooms_[t].kept.resize(planned_->plans[t].windows.size());
    }
  }
  return *planned_;
}

std::string DivergenceReference::mismatch(std::size_t text, const WindowPlan& plan, const Model& other) const {
  const std::string against = " than the reference " + name_;
  const Perplexity& theirs = planned_->results.at(text);
  const WindowPlan& mine = planned_->plans[text];
  if (theirs.failed()) return "the reference " + name_ + " cannot be measured: " + theirs.failure;
  if (other.config.vocabulary != model_->config.vocabulary) {
    return "another vocabulary" + against + " (" + std::to_string(other.config.vocabulary) + " tokens, not " +
           std::to_string(model_->config.vocabulary) + "), so their distributions do not compare";
  }
  if (plan.seqlen != mine.seqlen) {
    return "other windows" + against + " (" + std::to_string(plan.seqlen) + " tokens, not " + std::to_string(mine.seqlen) +
           "). Give both the same --seqlen";
  }
  const auto same = [](const Window& a, const Window& b) { return a.begin == b.begin && a.length == b.length && a.first == b.first; };
  if (plan.tokens != mine.tokens || plan.ignored_target != mine.ignored_target ||
      !std::equal(plan.windows.begin(), plan.windows.end(), mine.windows.begin(), mine.windows.end(), same)) {
    return "other tokens" + against + " makes of this text, so they predict different things";
  }
  return {};
}

void DivergenceReference::make_room(std::size_t text) {
  Room& room = rooms_.at(text);
  if (room.bytes) return;
  if (width_ == 0) width_ = forward().head_input(forward().embed(std::vector<std::int32_t>{0})).size(1);
  const auto value = static_cast<std::uint64_t>(type_ == ComputeType::Float32 ? sizeof(float) : sizeof(std::uint16_t));
  const std::uint64_t bytes = static_cast<std::uint64_t>(room.starts.back()) * static_cast<std::uint64_t>(width_) * value;
  scratch_.require(bytes);
  room.bytes = scratch_.allocate(bytes);
}

void DivergenceReference::keep(std::size_t text, std::size_t window, const at::Tensor& hidden) {
  Room& room = rooms_.at(text);
  const Window& place = planned_->plans[text].windows.at(window);
  if (scored(place) == 0) return;
  const at::Tensor rows = forward_->head_input(hidden.narrow(0, place.first, scored(place))).to(at::kCPU).contiguous();
  const auto row_bytes = static_cast<std::size_t>(rows.nbytes()) / static_cast<std::size_t>(rows.size(0));
  std::memcpy(room.bytes.get() + static_cast<std::size_t>(room.starts[window]) * row_bytes, rows.const_data_ptr(), rows.nbytes());
  room.kept[window] = 1;
}

bool DivergenceReference::kept(std::size_t text, std::size_t window) const { return rooms_.at(text).kept.at(window) != 0; }

TokenDivergence DivergenceReference::compare(std::size_t text, std::size_t window, const ForwardPass& forward, const at::Tensor& hidden) const {
  const Room& room = rooms_.at(text);
  const Window& place = planned_->plans[text].windows.at(window);
  const at::ScalarType type = type_ == ComputeType::Float32 ? at::kFloat : at::kBFloat16;
  const auto row_bytes = static_cast<std::size_t>(width_) * c10::elementSize(type);
  const std::int64_t vocabulary = model_->config.vocabulary;
  const std::int64_t block = std::clamp(kBlockValues / std::max<std::int64_t>(1, vocabulary) / kBlockRows * kBlockRows, kBlockRows, kMostRows);
  TokenDivergence result;
  for (std::int64_t begin = 0; begin < scored(place); begin += block) {
    const std::int64_t count = std::min(block, scored(place) - begin);
    std::uint8_t* kept_rows = room.bytes.get() + static_cast<std::size_t>(room.starts[window] + begin) * row_bytes;
    const at::Tensor theirs = forward_->exact_logits(at::from_blob(kept_rows, {count, width_}, type).to(device_)).to(at::kCPU).contiguous();
    const at::Tensor mine = forward.exact_logits(forward.head_input(hidden.narrow(0, place.first + begin, count))).to(at::kCPU).contiguous();
    if (mine.size(1) != theirs.size(1)) throw Error("the heads of the two models differ in their number of rows");
    token_divergence(theirs.const_data_ptr<float>(), mine.const_data_ptr<float>(), count, theirs.size(1), result);
  }
  return result;
}

}  // namespace miq
