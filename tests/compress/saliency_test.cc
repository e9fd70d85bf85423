#include "miq/compress/saliency.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "miq/base/error.h"
#include "tests/compress/solver_inputs.h"

namespace miq {
namespace {

at::Tensor quantized(std::int64_t rows, std::int64_t cols) {  // with many equal values
  at::Tensor weights = random_matrix(rows, cols, 4, 3);
  for (std::int64_t i = 0; i < rows * cols; ++i) weights.mutable_data_ptr<float>()[i] = std::nearbyint(weights.const_data_ptr<float>()[i]);
  return weights;
}

TEST(WandaMask, IsTheStartOfAStableSortOfEachRow) {
  ThreadPool pool(2);
  const std::int64_t rows = 67, cols = 41;
  std::vector<float> norms(cols);
  for (std::int64_t k = 0; k < cols; ++k) norms[k] = static_cast<float>(1 + k % 3);
  const at::Tensor weights = quantized(rows, cols);
  for (double sparsity : {0.0, 0.1, 0.5, 0.97}) {
    const KeptMask kept = wanda_mask(weights, norms, sparsity, pool);
    for (std::int64_t r = 0; r < rows; ++r) {
      std::vector<std::int64_t> order(cols);
      std::iota(order.begin(), order.end(), 0);
      const float* row = weights.const_data_ptr<float>() + r * cols;
      std::stable_sort(order.begin(), order.end(),
                       [&](auto a, auto b) { return std::fabs(row[a]) * norms[a] < std::fabs(row[b]) * norms[b]; });
      for (std::int64_t i = 0; i < cols; ++i)
        ASSERT_EQ(kept[r * cols + order[i]], i < static_cast<std::int64_t>(static_cast<double>(cols) * sparsity) ? 0 : 1);
    }
  }
}

TEST(WandaMask, PrunesTheLeastOfEverySet) {
  ThreadPool pool(2);
  const std::int64_t rows = 3, cols = 10;
  const at::Tensor weights = random_matrix(rows, cols, 8);
  const std::vector<float> norms(cols, 2);
  const KeptMask kept = wanda_mask_nm(weights, norms, 2, 4, pool);
  EXPECT_EQ(kept, magnitude_mask_nm(weights, 2, 4, pool));
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t first = 0; first < cols; first += 4) {
      const std::int64_t width = std::min<std::int64_t>(4, cols - first);
      float largest_gone = 0, least_kept = INFINITY;
      int gone = 0;
      for (std::int64_t k = first; k < first + width; ++k) {
        const float size = std::fabs(weights.const_data_ptr<float>()[r * cols + k]);
        if (kept[r * cols + k])
          least_kept = std::min(least_kept, size);
        else
          largest_gone = std::max(largest_gone, size), ++gone;
      }
      EXPECT_EQ(gone, width / 2);
      EXPECT_LT(largest_gone, least_kept);
    }
  }
}

TEST(MagnitudeMask, PrunesAllAtOrBelowTheThreshold) {
  ThreadPool pool(2);
  const at::Tensor weights = quantized(70, 30);
  const float* data = weights.const_data_ptr<float>();
  std::vector<float> sorted(70 * 30);
  for (int i = 0; i < 70 * 30; ++i) sorted[i] = std::fabs(data[i]);
  std::sort(sorted.begin(), sorted.end());
  for (double sparsity : {0.0, 0.5, 0.99}) {
    const float threshold = sorted[static_cast<std::size_t>(static_cast<double>(sorted.size()) * sparsity)];
    const KeptMask kept = magnitude_mask(weights, sparsity, pool);
    for (int i = 0; i < 70 * 30; ++i) ASSERT_EQ(kept[i], std::fabs(data[i]) <= threshold ? 0 : 1);
    const at::Tensor masked = apply_mask(weights, kept);
    for (int i = 0; i < 70 * 30; ++i) ASSERT_EQ(masked.const_data_ptr<float>()[i], kept[i] ? data[i] : 0);
  }
}

TEST(Masks, RefuseWhatMakesNoSense) {
  ThreadPool pool(1);
  const at::Tensor weights = random_matrix(3, 8, 1);
  EXPECT_THROW(magnitude_mask(weights, 1, pool), UsageError);
  EXPECT_THROW(magnitude_mask(weights, -0.1, pool), UsageError);
  EXPECT_THROW(magnitude_mask_nm(weights, 4, 4, pool), UsageError);
  EXPECT_THROW(wanda_mask(weights, std::vector<float>(7, 1), 0.5, pool), Error);
  EXPECT_THROW(wanda_mask(weights, std::vector<float>(8, NAN), 0.5, pool), Error);
  EXPECT_THROW(apply_mask(weights, KeptMask(23)), Error);
}

}  // namespace
}  // namespace miq
