// Compresses the matrices that read one input, by whatever the recipe says.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "miq/base/thread_pool.h"
#include "miq/compress/channel_statistics.h"
#include "miq/compress/hessian.h"
#include "miq/compress/methods.h"
#include "miq/compress/plan.h"
#include "miq/formats/packed_matrix.h"

namespace miq {

struct MatrixJob {
  std::string rule;                  // "self_attn.q_proj.weight"
  at::Tensor weights;                // [rows, n] float32
  const MatrixPlan* plan = nullptr;  // Layout::Groups
};

// What calibration knows of the input; the fields that the recipe does not need are empty.
struct InputStatistics {
  std::int64_t tokens = 0;     // 0: an expert that none was routed to
  at::Tensor hessian;          // [n, n] float32
  ChannelStatistics channels;
};
bool needs_hessian(const Recipe& recipe);
bool needs_channel_statistics(const Recipe& recipe);
inline bool needs_calibration(const Recipe& recipe) {
  return needs_hessian(recipe) || needs_channel_statistics(recipe) || reshapes(*recipe.method);
}

struct MatrixResult {
  at::Tensor values;                       // [rows, n] float32, the new weights
  std::optional<PackedMatrix> packed;      // quantizing only
  std::optional<double> output_loss;       // tr(D H D^T), where the sweep already knows it
  bool fallback = false;                   // no factor, nothing seen of the input, or a sweep that was worse: nearest values instead
  std::optional<std::int64_t> expert_tokens;  // experts only: how many tokens they saw
  double refined = 0;                      // share of the error that refining took away, damping counted as input
  double damping = 0;                      // the share that the factorisation needed; 0 without one
  std::int64_t dead_channels = 0;          // inputs that were always zero in calibration
  // tr(D H D^T) / tr(W H W^T), D = W - values: the share of the outputs' energy that was lost. Without a Hessian
  // the share of the squared weights.
  double error = 0;
  std::optional<std::array<double, 2>> importance;  // least and most of its channels
};

// `plan` of the place: Layout::Groups only. The Hessian lies on `where`, all other tensors on the CPU.
std::vector<MatrixResult> solve_place(const Recipe& recipe, std::span<const MatrixJob> jobs, const InputStatistics& input,
                                      const SitePlan* plan, ThreadPool& pool, const ComputeDevice& where = {});

}  // namespace miq
