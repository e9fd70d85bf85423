// A block of count + 8 vectors, first multiplied by the matrix a few times (which brings out both ends of the spectrum and so tells
// where it lies), then sharpened by rounds of: Chebyshev filter on the unwanted interval, orthonormalisation (modified Gram-Schmidt,
// twice), Rayleigh-Ritz. Products and filter run in float32 on a [n, width] panel; everything else in double on vectors as rows.
#include "miq/compress/symmetric_eigen.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "miq/compress/rng.h"

namespace miq {
namespace {

constexpr std::int64_t kGuardVectors = 8;
constexpr std::int64_t kPanel = 32;        // columns of a panel held in registers
constexpr std::int64_t kRowsPerUnit = 16;
constexpr int kPlainRounds = 3, kFilterRounds = 3, kFilterDegree = 10;

using Lanes = float __attribute__((vector_size(64), aligned(4)));
constexpr std::int64_t kLane = 16;

// out[0..4)[0..32) = sum over j of l[r][j] * v[j][0..32): four rows of the matrix, one panel of the block.
__attribute__((target_clones("avx512f", "avx2", "default"))) void multiply_panel(const float* const* l, const float* v, std::int64_t n,
                                                                                std::int64_t width, float* const* out) {
  Lanes sum[4][2] = {};
  for (std::int64_t j = 0; j < n; ++j) {
    Lanes a, b;
    std::memcpy(&a, v + j * width, sizeof a);
    std::memcpy(&b, v + j * width + kLane, sizeof b);
    for (int r = 0; r < 4; ++r) {
      sum[r][0] += l[r][j] * a;
      sum[r][1] += l[r][j] * b;
    }
  }
  for (int r = 0; r < 4; ++r) {
    std::memcpy(out[r], &sum[r][0], sizeof(Lanes));
    std::memcpy(out[r] + kLane, &sum[r][1], sizeof(Lanes));
  }
}

__attribute__((target_clones("avx512f", "avx2", "default"))) double dot(const double* a, const double* b, std::int64_t n) {
  double lanes[8] = {};
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int k = 0; k < 8; ++k) lanes[k] += a[i + k] * b[i + k];
  double sum = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

struct Block {
  std::span<const float> matrix;
  std::int64_t n, vectors, width;  // width: vectors rounded up to whole panels
  ThreadPool& pool;

  using Panel = std::vector<float>;   // [n, width]
  using Rows = std::vector<double>;   // [vectors, n]

  // out = a * (matrix * v) + b * v + c * w, elementwise after the product; w may be empty (c unused).
  void multiply(const Panel& v, Panel& out, float a = 1, float b = 0, float c = 0, const Panel& w = {}) const {
    out.resize(static_cast<std::size_t>(n * width));
    pool.for_each((n + kRowsPerUnit - 1) / kRowsPerUnit, [&](std::int64_t unit) {
      const std::int64_t last = std::min(n, (unit + 1) * kRowsPerUnit);
      for (std::int64_t i = unit * kRowsPerUnit; i < last; i += 4) {
        for (std::int64_t p = 0; p < width; p += kPanel) {
          const float* l[4];
          float sink[4][kPanel];
          float* sums[4];
          for (std::int64_t r = 0; r < 4; ++r) {
            l[r] = matrix.data() + std::min(i + r, n - 1) * n;
            sums[r] = sink[r];
          }
          multiply_panel(l, v.data() + p, n, width, sums);
          for (std::int64_t r = 0; r < std::min<std::int64_t>(4, last - i); ++r) {
            const std::int64_t at = (i + r) * width + p;
            for (std::int64_t k = 0; k < kPanel; ++k) {
              float value = a * sink[r][k] + b * v[at + k];
              if (!w.empty()) value += c * w[at + k];
              out[at + k] = value;
            }
          }
        }
      }
    });
  }

  Panel to_panel(const Rows& rows) const {
    Panel panel(static_cast<std::size_t>(n * width), 0.0f);
    pool.for_each(vectors, [&](std::int64_t c) {
      for (std::int64_t i = 0; i < n; ++i) panel[i * width + c] = static_cast<float>(rows[c * n + i]);
    });
    return panel;
  }
  Rows to_rows(const Panel& panel) const {
    Rows rows(static_cast<std::size_t>(vectors * n));
    pool.for_each(vectors, [&](std::int64_t c) {
      for (std::int64_t i = 0; i < n; ++i) rows[c * n + i] = panel[i * width + c];
    });
    return rows;
  }

  // Modified Gram-Schmidt, each vector against those before it, twice. A vector that vanishes is replaced by a random one.
  void orthonormalise(Rows& rows, SplitMix64& random) const {
    for (std::int64_t c = 0; c < vectors; ++c) {
      double* v = rows.data() + c * n;
      for (int attempt = 0; attempt < 5; ++attempt) {
        const double before = std::sqrt(dot(v, v, n));
        if (before > 1e-30) {
          for (std::int64_t i = 0; i < n; ++i) v[i] /= before;
          for (int twice = 0; twice < 2; ++twice) {
            for (std::int64_t p = 0; p < c; ++p) {
              const double* u = rows.data() + p * n;
              const double along = dot(u, v, n);
              for (std::int64_t i = 0; i < n; ++i) v[i] -= along * u[i];
            }
          }
          const double after = std::sqrt(dot(v, v, n));
          if (after > 1e-9) {
            for (std::int64_t i = 0; i < n; ++i) v[i] /= after;
            break;
          }
        }
        for (std::int64_t i = 0; i < n; ++i) v[i] = random.uniform() - 0.5;
      }
    }
  }

  // Turns orthonormal rows into Ritz vectors, values falling.
  std::vector<double> rayleigh_ritz(Rows& rows) const {
    Panel product;
    multiply(to_panel(rows), product);
    const Rows images = to_rows(product);
    std::vector<double> small(static_cast<std::size_t>(vectors * vectors)), values, rotation;
    pool.for_each(vectors, [&](std::int64_t c) {
      for (std::int64_t d = 0; d < vectors; ++d) small[c * vectors + d] = dot(rows.data() + c * n, images.data() + d * n, n);
    });
    for (std::int64_t c = 0; c < vectors; ++c)
      for (std::int64_t d = 0; d < c; ++d)
        small[c * vectors + d] = small[d * vectors + c] = (small[c * vectors + d] + small[d * vectors + c]) / 2;
    jacobi_eigen(std::move(small), vectors, values, rotation);
    Rows rotated(rows.size(), 0.0);
    pool.for_each(vectors, [&](std::int64_t c) {
      for (std::int64_t d = 0; d < vectors; ++d) {
        const double factor = rotation[c * vectors + d];
        for (std::int64_t i = 0; i < n; ++i) rotated[c * n + i] += factor * rows[d * n + i];
      }
    });
    rows = std::move(rotated);
    return values;
  }

  // The Chebyshev polynomial that stays within 1 on [low, high] and grows fastest above; scaled at `top` against overflow.
  void filter(Rows& rows, double low, double high, double top) const {
    const double half = (high - low) / 2, centre = (high + low) / 2;
    double sigma = half / (top - centre);
    const double first = sigma;
    Panel previous = to_panel(rows), current, next;
    multiply(previous, current, static_cast<float>(sigma / half), static_cast<float>(-centre * sigma / half));
    for (int degree = 2; degree <= kFilterDegree; ++degree) {
      const double sigma_next = 1 / (2 / first - sigma);
      multiply(current, next, static_cast<float>(2 * sigma_next / half), static_cast<float>(-2 * centre * sigma_next / half),
               static_cast<float>(-sigma * sigma_next), previous);
      std::swap(previous, current);
      std::swap(current, next);
      sigma = sigma_next;
    }
    rows = to_rows(current);
  }
};

// One rotation that makes element (p, q) zero: rows and columns p and q of `a`, rows p and q of `v`.
void rotate(std::vector<double>& a, std::vector<double>& v, std::int64_t m, std::int64_t p, std::int64_t q) {
  const double apq = a[p * m + q];
  const double theta = (a[q * m + q] - a[p * m + p]) / (2 * apq);
  const double t = (theta >= 0 ? 1.0 : -1.0) / (std::abs(theta) + std::sqrt(theta * theta + 1));
  const double c = 1 / std::sqrt(t * t + 1), s = t * c;
  for (std::int64_t k = 0; k < m; ++k) {
    const double x = a[k * m + p], y = a[k * m + q];
    a[k * m + p] = c * x - s * y;
    a[k * m + q] = s * x + c * y;
  }
  for (std::int64_t k = 0; k < m; ++k) {
    const double x = a[p * m + k], y = a[q * m + k];
    a[p * m + k] = c * x - s * y;
    a[q * m + k] = s * x + c * y;
  }
  for (std::int64_t k = 0; k < m; ++k) {
    const double x = v[p * m + k], y = v[q * m + k];
    v[p * m + k] = c * x - s * y;
    v[q * m + k] = s * x + c * y;
  }
}

}  // namespace

void jacobi_eigen(std::vector<double> matrix, std::int64_t m, std::vector<double>& values, std::vector<double>& vectors) {
  std::vector<double> v(static_cast<std::size_t>(m * m), 0.0);
  for (std::int64_t i = 0; i < m; ++i) v[i * m + i] = 1;
  double total = 0;
  for (double value : matrix) total += value * value;
  const double negligible = 1e-15 * std::sqrt(total / static_cast<double>(std::max<std::int64_t>(1, m)));
  for (int sweep = 0; sweep < 30; ++sweep) {
    bool rotated = false;
    for (std::int64_t p = 0; p < m; ++p)
      for (std::int64_t q = p + 1; q < m; ++q)
        if (std::abs(matrix[p * m + q]) > negligible) rotate(matrix, v, m, p, q), rotated = true;
    if (!rotated) break;
  }
  std::vector<std::int64_t> order(static_cast<std::size_t>(m));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return matrix[a * m + a] > matrix[b * m + b]; });
  values.resize(static_cast<std::size_t>(m));
  vectors.resize(static_cast<std::size_t>(m * m));
  for (std::int64_t c = 0; c < m; ++c) {
    values[c] = matrix[order[c] * m + order[c]];
    std::copy_n(v.data() + order[c] * m, m, vectors.data() + c * m);
  }
}

std::vector<double> leading_eigenvectors(std::span<const float> matrix, std::int64_t n, std::int64_t count, std::uint64_t seed,
                                         ThreadPool& pool, std::vector<double>* values) {
  const std::int64_t vectors = std::min(n, count + kGuardVectors);
  const Block block{matrix, n, vectors, (vectors + kPanel - 1) / kPanel * kPanel, pool};
  SplitMix64 random(seed ^ 0x656967656eu);
  Block::Rows rows(static_cast<std::size_t>(vectors * n));
  for (double& value : rows) value = random.uniform() - 0.5;
  block.orthonormalise(rows, random);
  for (int round = 0; round < kPlainRounds; ++round) {
    Block::Panel product;
    block.multiply(block.to_panel(rows), product);
    rows = block.to_rows(product);
    block.orthonormalise(rows, random);
  }
  std::vector<double> ritz = block.rayleigh_ritz(rows);
  const double low = std::min(1.1 * ritz.back(), -0.02);
  for (int round = 0; round < kFilterRounds && vectors < n; ++round) {
    const double high = std::max({ritz.back(), 0.5 * ritz[count - 1], low + 0.02});
    if (high >= ritz.front()) break;  // nothing stands out of the rest
    block.filter(rows, low, high, std::max(1.0, ritz.front()));
    block.orthonormalise(rows, random);
    ritz = block.rayleigh_ritz(rows);
  }
  std::vector<double> result(static_cast<std::size_t>(n * count));
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t c = 0; c < count; ++c) result[i * count + c] = rows[c * n + i];
  if (values) values->assign(ritz.begin(), ritz.begin() + count);
  return result;
}

}  // namespace miq
