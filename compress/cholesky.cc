// Right-looking Cholesky by blocks: factor a diagonal block, divide the block column below it by that, subtract
// its products from what is left. Then the inverse, one block column at a time: with X = L^-1,
// X_jj = L_jj^-1 and X_ij = -L_ii^-1 (sum over j <= k < i of L_ik X_kj). About 2/3 n^3 multiplications and additions.
#include "miq/compress/cholesky.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

namespace miq {
namespace {

constexpr std::int64_t kBlock = 128;

at::Tensor part(const at::Tensor& matrix, std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns) {
  return matrix.narrow(0, row, rows).narrow(1, column, columns);
}

}  // namespace

std::optional<at::Tensor> inverse_cholesky(at::Tensor matrix, ThreadPool& pool) {
  const at::NoGradGuard no_grad;
  const std::int64_t n = matrix.size(0), blocks = (n + kBlock - 1) / kBlock;
  const auto first = [](std::int64_t block) { return block * kBlock; };
  const auto size = [n](std::int64_t block) { return std::min(kBlock, n - block * kBlock); };
  const auto block_of = [&](const at::Tensor& of, std::int64_t i, std::int64_t j) {
    return part(of, first(i), size(i), first(j), size(j));
  };

  std::vector<at::Tensor> diagonal_inverses;  // L_kk^-1
  for (std::int64_t k = 0; k < blocks; ++k) {
    const auto [factor, info] = at::linalg_cholesky_ex(block_of(matrix, k, k).contiguous());
    if (info.item<int>() != 0) return std::nullopt;
    diagonal_inverses.push_back(at::linalg_solve_triangular(factor, at::eye(size(k), factor.options()), /*upper=*/false).contiguous());
    pool.for_each(blocks - k - 1, [&](std::int64_t unit) {
      const at::NoGradGuard unit_no_grad;
      at::Tensor below = block_of(matrix, k + 1 + unit, k);
      below.copy_(at::mm(below, diagonal_inverses[k].t()));
    });
    std::vector<std::pair<std::int64_t, std::int64_t>> rest;
    for (std::int64_t i = k + 1; i < blocks; ++i)
      for (std::int64_t j = k + 1; j <= i; ++j) rest.emplace_back(i, j);
    pool.for_each(static_cast<std::int64_t>(rest.size()), [&](std::int64_t unit) {
      const at::NoGradGuard unit_no_grad;
      const auto [i, j] = rest[unit];
      block_of(matrix, i, j).addmm_(block_of(matrix, i, k), block_of(matrix, j, k).t(), 1, -1);
    });
  }

  at::Tensor inverse = at::zeros({n, n}, matrix.options());
  pool.for_each(blocks, [&](std::int64_t j) {
    const at::NoGradGuard unit_no_grad;
    block_of(inverse, j, j).copy_(diagonal_inverses[j]);
    for (std::int64_t i = j + 1; i < blocks; ++i) {
      const std::int64_t above = first(i) - first(j);
      const at::Tensor sum = at::mm(part(matrix, first(i), size(i), first(j), above), part(inverse, first(j), above, first(j), size(j)));
      block_of(inverse, i, j).copy_(at::mm(diagonal_inverses[i], sum).neg_());
    }
  });
  return inverse;
}

}  // namespace miq
