// Norms fused into the matrices that read them: the first step of SliceGPT (slicegpt/layernorm_fusion.py).
//
// A norm's weight scales the columns of the matrices behind it, its bias becomes theirs, and the mean that a layer norm subtracts is taken
// out of everything that writes to the residual stream. What is left divides by the root mean square and by nothing else, and so
// commutes with rotations of the stream. All in float64.
//
// Unlike the original, which subtracts the mean of every embedding row in all families, rows are centred only where norms
// subtract a mean: with RMS norms it would change the model.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <string>

#include "miq/base/thread_pool.h"
#include "miq/model/architecture.h"
#include "miq/model/model.h"

namespace miq {

// Float64, by rule name.
using LayerMatrices = std::map<std::string, at::Tensor, std::less<>>;

// Throws UsageError where a model like this cannot be sliced, saying why.
void check_sliceable(const Config& config);

// The same model with fused norms: NormKind::FusedRms, epsilon 1e-5 (RMSN's fixed one), a head of its own, and biases where
// norms had some. Not sliced: the widths stay.
Config fused_config(const Config& config);

// The tensors that layer has under fused_config().
LayerMatrices fuse_layer(const Model& model, std::int64_t layer);

// Embedding, positions, head and its bias under fused_config(), by name, each passed through `change` (rows [n, hidden] float64 ->
// rows of another width; for the bias, which is a row of one element a token, never called) a block of rows at a time.
// `change` is called from the pool's threads with the role.
using RowChange = std::function<at::Tensor(Role role, const at::Tensor& rows)>;
std::map<std::string, Tensor> fuse_globals(const Model& model, ThreadPool& pool, const RowChange& change);

// All of it: a model that computes what `model` does, but for rounding and the epsilon.
Model fuse_norms(const Model& model, ThreadPool& pool);

}  // namespace miq
