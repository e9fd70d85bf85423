// Guesses how a checkpoint was compressed, from what its weights look like. A guess with its evidence, never a
// finding: tensors do not carry their maker's name, and the report says what cannot be told apart.
#pragma once

#include <string>

#include "miq/base/thread_pool.h"
#include "miq/model/model.h"

namespace miq {

// The fingerprints, over the linears of the decoder layers (scores and thresholds: sparsegpt.py, wanda's prune.py):
//   wanda       compares within each output row: every row of a matrix has the same number of zeros
//   sparsegpt   one threshold for each block of 128 input channels: blocks of a matrix have the same share of zeros,
//               nearer to each other than chance has it
//   magnitude   one threshold for a matrix: no weight that was kept is smaller than one that was pruned, so the
//               kept magnitudes begin at an edge
//   n:m         no group of m consecutive input channels keeps more than n (m = 4, 8, 16)
//   lattice     lattice.h, or the codes of tensors that are packed already
//
// Result; keys without a value are absent:
//   {"guess": "SparseGPT-like: 50.3 % zeros; 4-bit lattice per row",          one line
//    "method": "dense" | "sparsegpt" | "wanda" | "magnitude" | "n:m" | "sparse" | "quantized",
//    "sparsity": share of zeros, "pruned": estimated share of zeros that rounding alone does not explain,
//    "n_m": {"n", "m"},
//    "quantization": {"matrices", "of", "bits": "4" or "3+4+6+8", "sharing": "row" | "groups of 32" | "mixed"},
//    "blocks": {"columns", "values"},   few values in each run: decoded from blocks with an offset, such as GGUF's Q4_1
//    "structure": "what structured pruning did",
//    "claim": "what names or files say of a quantization",
//    "evidence": [text, …], "warnings": [text, …]}
//
// Warnings name checkpoints that were meant to be quantized and are not: zeros but no lattice, as the earlier
// enhanced and MI scripts leave them (docs/methods.md). `path` is where the model was opened, or empty: a
// folder's small .json files are searched for the number of bits they claim; nothing else is read from it.
// Does not change the model. Deterministic. Costs a pass over the linears, and a search for lattices in the
// first million weights of each.
Json recognise(const Model& model, ThreadPool& pool, const std::string& path = {});

}  // namespace miq
