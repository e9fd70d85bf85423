// Wanda and magnitude masks: plain sorts, row by row or over the whole matrix. torch.sort(stable=True) and
// torch.topk in the originals; where topk leaves the order of equal scores open, the first goes first here.
#include "miq/compress/saliency.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "miq/base/error.h"
#include "miq/compress/not_finite.h"
#include "miq/compress/row_tile.h"

namespace miq {
namespace {

const float* check_weights(const at::Tensor& weights) {
  if (weights.dim() != 2 || weights.scalar_type() != at::kFloat || !weights.is_contiguous()) {
    throw Error("masks: weights must be a contiguous float32 matrix");
  }
  if (!all_finite(weights.const_data_ptr<float>(), weights.numel())) throw NotFinite("masks: the weights hold NaN or infinity");
  return weights.const_data_ptr<float>();
}

void check_sparsity(double sparsity) {
  if (!(sparsity >= 0 && sparsity < 1)) throw UsageError("sparsity must be at least 0 and less than 1");
}

void check_pattern(int n, int m) {
  if (n <= 0 || m <= n || m > 64) throw UsageError("an n:m pattern needs 0 < n < m <= 64");
}

void check_norms(std::span<const float> norms, std::int64_t cols) {
  if (static_cast<std::int64_t>(norms.size()) != cols) throw Error("masks: there are not as many channel norms as columns");
  for (float norm : norms) {
    if (!(norm >= 0 && std::isfinite(norm))) throw NotFinite("masks: a channel norm is negative or not finite");
  }
}

// Calls work(scores of the row [cols], kept of the row [cols]) for every row; scores are |w| * norm.
template <typename Work>
KeptMask mask_rows(const at::Tensor& weights, std::span<const float> norms, ThreadPool& pool, const Work& work) {
  const float* data = check_weights(weights);
  const std::int64_t rows = weights.size(0), cols = weights.size(1);
  KeptMask kept(rows * cols, 1);
  pool.for_each(tile_count(rows), [&](std::int64_t tile) {
    std::vector<float> scores(cols);
    for (std::int64_t r = tile * kTileRows; r < std::min(rows, (tile + 1) * kTileRows); ++r) {
      for (std::int64_t k = 0; k < cols; ++k) scores[k] = std::fabs(data[r * cols + k]) * (norms.empty() ? 1.0f : norms[k]);
      work(scores, kept.data() + r * cols);
    }
  });
  return kept;
}

KeptMask pattern_mask(const at::Tensor& weights, std::span<const float> norms, int n, int m, ThreadPool& pool) {
  check_pattern(n, m);
  return mask_rows(weights, norms, pool, [&](const std::vector<float>& scores, std::uint8_t* kept) {
    const auto cols = static_cast<std::int64_t>(scores.size());
    for (std::int64_t first = 0; first < cols; first += m) {
      const std::int64_t width = std::min<std::int64_t>(m, cols - first), count = width < m ? n * width / m : n;
      for (std::int64_t taken = 0; taken < count; ++taken) {
        std::int64_t least = -1;
        for (std::int64_t k = first; k < first + width; ++k) {
          if (kept[k] && (least < 0 || scores[k] < scores[least])) least = k;
        }
        kept[least] = 0;
      }
    }
  });
}

}  // namespace

KeptMask wanda_mask(const at::Tensor& weights, std::span<const float> channel_norms, double sparsity, ThreadPool& pool) {
  check_sparsity(sparsity);
  check_norms(channel_norms, weights.dim() == 2 ? weights.size(1) : -1);
  return mask_rows(weights, channel_norms, pool, [&](const std::vector<float>& scores, std::uint8_t* kept) {
    const auto count = static_cast<std::int64_t>(static_cast<double>(scores.size()) * sparsity);
    if (count == 0) return;
    // The first `count` of a stable sort: everything below the threshold, and the first of those equal to it.
    std::vector<float> sorted = scores;
    std::nth_element(sorted.begin(), sorted.begin() + (count - 1), sorted.end());
    const float threshold = sorted[count - 1];
    std::int64_t ties = count - std::count_if(scores.begin(), scores.end(), [&](float score) { return score < threshold; });
    for (std::size_t k = 0; k < scores.size(); ++k) {
      if (scores[k] < threshold || (scores[k] == threshold && ties-- > 0)) kept[k] = 0;
    }
  });
}

KeptMask wanda_mask_nm(const at::Tensor& weights, std::span<const float> channel_norms, int n, int m, ThreadPool& pool) {
  check_norms(channel_norms, weights.dim() == 2 ? weights.size(1) : -1);
  return pattern_mask(weights, channel_norms, n, m, pool);
}

KeptMask magnitude_mask(const at::Tensor& weights, double sparsity, ThreadPool& pool) {
  check_sparsity(sparsity);
  const float* data = check_weights(weights);
  const std::int64_t elements = weights.numel();
  if (elements == 0) return {};
  std::vector<float> sorted(elements);
  std::transform(data, data + elements, sorted.begin(), [](float w) { return std::fabs(w); });
  const std::int64_t rank = std::min(static_cast<std::int64_t>(static_cast<double>(elements) * sparsity), elements - 1);
  std::nth_element(sorted.begin(), sorted.begin() + rank, sorted.end());
  const float threshold = sorted[rank];
  return mask_rows(weights, {}, pool, [&](const std::vector<float>& scores, std::uint8_t* kept) {
    for (std::size_t k = 0; k < scores.size(); ++k) kept[k] = scores[k] <= threshold ? 0 : 1;
  });
}

KeptMask magnitude_mask_nm(const at::Tensor& weights, int n, int m, ThreadPool& pool) { return pattern_mask(weights, {}, n, m, pool); }

at::Tensor apply_mask(const at::Tensor& weights, const KeptMask& kept) {
  const float* in = check_weights(weights);
  if (static_cast<std::int64_t>(kept.size()) != weights.numel()) throw Error("masks: the mask has not the size of the matrix");
  at::Tensor result = at::empty(weights.sizes(), at::kFloat);
  float* out = result.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < weights.numel(); ++i) out[i] = kept[i] ? in[i] : 0.0f;
  return result;
}

}  // namespace miq
