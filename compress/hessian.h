// Second moments of the input of a linear layer and the factor that the solver sweeps with.
//
// H = E_t[x_t x_t^T] over calibration tokens, x in R^n the input of the linears of one site (q, k and v
// share one; gate and up share one). SparseGPT's add_batch keeps 2/sequences times the sum instead: damping is
// relative to the mean diagonal and nothing else depends on the scale of H.
//
// What one input gives (a window, or its tokens that an expert reads) is a part: float32 sums over its tokens, computed block by block of H, each block by
// one thread. Parts are rounded and added in float64 (exact_sums.h), so the bytes depend neither on the number of threads nor on which process adds which
// window, nor on how windows are cut into calls.
//
// On a device a part's sums are LibTorch's products, of at most kDeviceTokens tokens at once. A bfloat16 value has 8 bits, so products are exact; what is
// rounded are sums, of which |error_ij| <= (tokens at once + parts) 2^-24 sum_t |x_ti x_tj| (tests measure far less).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "miq/base/ranks.h"
#include "miq/base/thread_pool.h"
#include "miq/compress/compute_device.h"
#include "miq/compress/exact_sums.h"

namespace miq {

inline constexpr std::int64_t kDeviceTokens = 8192;

class HessianSum {
 public:
  // The sums lie where they are computed.
  explicit HessianSum(std::int64_t channels, const ComputeDevice& where = {}) : where_(where), sum_(channels, where.device) {}

  std::int64_t channels() const { return sum_.size(); }
  std::int64_t tokens() const { return tokens_; }

  // Adds the inputs, each a part [tokens, channels] float32 or bfloat16 (one window each, usually a batch of
  // windows per call). bfloat16 inputs are multiplied exactly and summed in float32 (in another order where the
  // processor has AVX-512 BF16 instructions). Throws Error naming
  // the index of an input that holds NaN or infinity, or has the wrong shape; the sum is then unusable. On a device, where the inputs lie too, NaN and
  // infinity are found by mean(), and memory may end: fewer rows go at once then, and where even 16 have no room c10::OutOfMemoryError is thrown. Called
  // again with the same inputs it goes on where it ended, and nothing is added twice.
  void add(std::span<const at::Tensor> inputs, ThreadPool& pool);

  // Adds what the other processes added to theirs, in the rank `to` or in all; elsewhere it is unusable afterwards.
  void sum_over(Ranks& ranks, int to = Ranks::kAll);

  // [n, n] float32, symmetric, its diagonal E[x_j^2]: sum / tokens. Throws Error when nothing was added.
  at::Tensor mean() const;

 private:
  void add_on_device(std::span<const at::Tensor> inputs);
  void add_panel_on_device(const at::Tensor& input, const at::Tensor& steps, MomentSum::Panel& panel);

  // How far add() came on a device: input of the call, panel, its row.
  struct Reached {
    std::size_t input = 0, panel = 0;
    std::int64_t row = 0;
  };
  // Done at once on a device: channels of an input whose energies are computed, rows of a panel that are multiplied, and added. Halved where memory ends.
  struct AtOnce {
    std::int64_t channels = INT64_MAX, products = INT64_MAX, sums = INT64_MAX;
  };

  std::int64_t tokens_ = 0;
  Reached reached_;
  AtOnce at_once_;
  ComputeDevice where_;
  MomentSum sum_;
};

// Zero: what SparseGPT and GPTQ do: H_dd = 1 and the weights of the column become 0.
// Keep: the column is rounded (or pruned) like the others, with damping alone as its diagonal.
enum class DeadColumns { Zero, Keep };

struct FactorOptions {
  double damping = 0.01;  // share of the mean diagonal added to the diagonal
  DeadColumns dead_columns = DeadColumns::Keep;
};

// The upper Cholesky factor U of (H + damping * mean(diag H) * I)^-1 = U^T U with rows and columns of H
// taken in `order`. U_jj^-2 is what is left of H_jj once the later columns have explained their part.
// `upper` is that of H divided by `scale`, which keeps its numbers near 1 whatever the unit of x.
struct InverseFactor {
  std::vector<std::int64_t> order;       // [n] position in the sweep -> column of the matrix
  at::Tensor upper;                      // [n, n] float32, contiguous, zero below the diagonal; sweep order; where the Hessian lies
  double scale = 1;                      // mean diagonal of H
  double damping = 0;                    // the share that was needed; more than asked for: a higher rung
  std::vector<double> inverse_diagonal;  // [n] diagonal of the damped inverse, in H's own unit; matrix column order
  std::vector<std::uint8_t> dead;        // [n] 1 where H_jj == 0 (relative to the mean); matrix column order
  DeadColumns dead_columns = DeadColumns::Keep;

  std::int64_t size() const { return static_cast<std::int64_t>(order.size()); }
  std::int64_t dead_count() const;
};

// Computed in float64. When the Cholesky factorisation fails, damping is raised tenfold, up to 1.
// Nothing: H is not finite, has no positive diagonal element, or failed on every rung: the caller rounds to nearest and
// says so (exit code 3). Throws Error on a `hessian` that is no [n, n] float32 or an `order` that is no permutation.
std::optional<InverseFactor> factor_inverse(const at::Tensor& hessian, std::span<const std::int64_t> order, const FactorOptions& options,
                                            ThreadPool& pool, const ComputeDevice& where = {});

// Orders: as stored, and by falling H_jj (equal ones as stored).
std::vector<std::int64_t> natural_order(std::int64_t columns);
std::vector<std::int64_t> order_by_diagonal(const at::Tensor& hessian);

// tr((A - B) H (A - B)^T) of two matrices [rows, n] float32: the expected squared error of the outputs
// per token, summed over rows. Compare with the same figure of rounding to nearest. Computed where the Hessian lies.
double output_error(const at::Tensor& a, const at::Tensor& b, const at::Tensor& hessian, ThreadPool& pool);

}  // namespace miq
