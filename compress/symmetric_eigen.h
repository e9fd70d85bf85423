// Leading eigenvectors of a large symmetric matrix, reproducible to the byte; a part of spectral clustering.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "miq/base/thread_pool.h"

namespace miq {

// `matrix` [n * n] row-major, symmetric, eigenvalues within [-1, 1]. Returns [n * count] row-major: column c is the unit eigenvector of
// the c-th largest eigenvalue, good to about 1e-3 where eigenvalues are well apart (within a tight cluster of eigenvalues: some basis near
// theirs). `values`, when given, receives the `count` Ritz values, falling. REQUIRES 1 <= count <= n.
std::vector<double> leading_eigenvectors(std::span<const float> matrix, std::int64_t n, std::int64_t count, std::uint64_t seed,
                                         ThreadPool& pool, std::vector<double>* values = nullptr);

// All eigenvalues (falling) and eigenvectors of a small symmetric matrix [m * m] by cyclic Jacobi rotations (Golub and Van Loan,
// Matrix Computations, 8.5). `vectors` [m * m]: row c is the c-th eigenvector.
void jacobi_eigen(std::vector<double> matrix, std::int64_t m, std::vector<double>& values, std::vector<double>& vectors);

}  // namespace miq
