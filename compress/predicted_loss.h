// What each bit width would cost each group of a matrix, before anything is solved.
//
//   e_j(b) = sum_r f_r (w_rj - q_rj(b))^2      q: nearest values, asymmetric minimum-maximum scales of each (row, group), 0 included;
//                                              for b < 6 the best clip p in {1, 0.9, …, 0.5} by sum over the group of (w - q)^2, unless `clip`
//                                              is false
//   D_g(b) = sum_j in g  H_jj k_j e_j(b)       H_jj energy of channel j, k_j the kept share of its weights (1 without sparsity)
//
// f_r is the sensitivity of output row r: the mean square of the loss's gradient there (diagonal Fisher information), or one number for the
// matrix. Then D is comparable between the groups of all matrices of a model and allocate_global spends one budget over all.
#pragma once

#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "miq/base/thread_pool.h"
#include "miq/compress/allocate.h"
#include "miq/compress/grouping.h"

namespace miq {

// Column errors e_j(b): [levels * columns], level-major, columns by their place in the processing order. Linear in f: a table made with
// f = 1 may be multiplied by a matrix's sensitivity found later.
// `weight` [rows, columns] F32 in original column order; `row_sensitivity` [rows], or empty for all 1.
// Throws Error when sizes disagree.
std::vector<double> column_errors(const at::Tensor& weight, const ChannelGroups& groups, std::span<const double> row_sensitivity,
                                  ThreadPool& pool, std::span<const int> levels = kBitLevels, bool clip = true);

// Group losses D_g(b): [groups * levels], group-major, as allocate_global takes them. `energy` [columns] H_jj by original channel
// number; `kept` [columns] kept share by place in the processing order, or empty for all 1.
std::vector<double> group_losses(std::span<const double> column_error, const ChannelGroups& groups, std::span<const double> energy,
                                 std::span<const double> kept = {}, std::span<const int> levels = kBitLevels);

// Kept weights of each group for allocate_global: rows * sum of k_j.
std::vector<double> group_kept(const ChannelGroups& groups, std::int64_t rows, std::span<const double> kept = {});

}  // namespace miq
