// SliceGPT (Ashkboos et al. 2024, arXiv:2401.15024): a narrower residual stream. Norms are fused into the matrices behind them
// (slice_fuse.h); then the stream is turned to its principal axes in front of every block and the least of them are cut away, with a
// rotation beside each block from one basis to the next. Sequential, as the original (slicegpt/rotate.py): what a block is measured on
// has passed through all slices before it.
#pragma once

#include "miq/compress/compress.h"

namespace miq {

// The config of the result: fused_config() with every width of the stream cut down, but for what the head reads.
Config sliced_config(const Config& config, const Recipe& recipe);
// Elements of all tensors; without `rotations` as the original counts a fused model.
std::uint64_t count_elements(const Config& config, bool rotations);

// `recipe` of method slicegpt. The result is a sliced model (Config::sliced) with method and statistics as readers of sliced checkpoints
// describe them, plus "energy": the share of the stream's energy that each width keeps. Same bytes for any number of threads.
// Throws UsageError for models that cannot be sliced, and Error.
CompressResult slice_model(const Model& model, const Calibration& calibration, const Recipe& recipe, ThreadPool& pool,
                           const ProgressFunction& progress = {}, const MessageFunction& message = {});

}  // namespace miq
