// Structured removal, as LLM-Pruner (Ma et al. 2023, arXiv:2305.11627): a smaller dense model. Head groups and MLP channels are scored
// by what they do to the loss (structure_scores.h), the least valuable are taken out of all matrices that make or read them
// (structure_parts.h), and what is left of each output matrix is fitted to what it wrote before. Or whole layers go.
#pragma once

#include "miq/compress/compress.h"

namespace miq {

// Measured on the story model (docs/methods.md).
inline constexpr SparsityAllocation kDefaultStructureAllocation = SparsityAllocation::Global;

// Throws UsageError where a model like this cannot be made smaller in this way, saying why.
void check_structure(const Config& config, const Recipe& recipe);

// `recipe` of method structured. Same bytes for any number of threads. Matrices of layers that lose nothing stay as they are stored.
CompressResult structure_model(const Model& model, const Calibration& calibration, const Recipe& recipe, ThreadPool& pool,
                               const ProgressFunction& progress = {}, const MessageFunction& message = {});

// An output matrix without its removed inputs: W_K + W_P H_PK (H_KK + damping mean(diag H_KK))^-1, the least-squares fit of
// W x by the kept K when H = E[x x^T], computed in float64. Where H_KK has no factor, W_K as it is.
struct FittedColumns {
  at::Tensor weights;  // [rows, kept] float32
  bool fitted = false;
  double error = 0;  // share of the outputs' energy that is lost, tr(D H D^T) / tr(W H W^T)
};
FittedColumns fit_columns(const at::Tensor& weights, const at::Tensor& hessian, const std::vector<std::int64_t>& kept, double damping,
                          bool fit, ThreadPool& pool);

}  // namespace miq
