// Tuning what costs no bits, after the solver is done: the gains of all norms, and the scales of the compressed matrices, move a little so that
// the compressed model predicts the next token as the dense one does. Codes, zero points, masks and groups stay; so does every size.
//
//   minimise  sum over positions of  KL(softmax(dense logits) || softmax(logits))      over the calibration windows,
//
// by Adam (Kingma and Ba 2015, arXiv:1412.6980) on relative changes: value = original * (1 + theta). Gains: Norm Tweaking (Li et al. 2023,
// arXiv:2309.02784), which works layer by layer; scales end to end: EfficientQAT's second phase (Chen et al. 2024, arXiv:2407.11062).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "miq/base/progress.h"
#include "miq/base/thread_pool.h"
#include "miq/compress/calibration.h"
#include "miq/compress/methods.h"
#include "miq/formats/json.h"
#include "miq/model/forward.h"
#include "miq/model/model.h"

namespace miq {

inline constexpr std::int64_t kTuneBatch = 4;       // windows in a step
inline constexpr std::int64_t kTunePositions = 64;  // whose logits, of both models, exist at once in a thread

struct TuneOptions {
  Tune what = Tune::Norms;
  int epochs = 2;
  std::int64_t batch = kTuneBatch;
  std::int64_t held_out = 8;  // every so many-th window is not trained on, but says which epoch is kept
  double norm_rate = 4e-3, scale_rate = 4e-3;  // relative step of Adam at the start; falls linearly to a tenth
  std::uint64_t seed = 0;     // of the order of windows
  ComputeType compute = ComputeType::BFloat16;
};

struct TuneResult {
  Json statistics;      // {"what", "epochs", "kept_epoch", "held_out": KL in nats a position before and after each epoch, …}
  std::string summary;  // one line for people
};

// Changes tensors of `compressed`: norms become F32, packed matrices get other scales of the same type. `dense` is the model that it was made
// from: same config, embedding and head. The parameters of the epoch with the smallest KL on the held-out windows are kept, or those it began
// with. Deterministic for any number of threads. `advance(stage, share)`: shares sum to 1. Throws UsageError where there are
// fewer than two windows or nothing to tune.
TuneResult tune(const Model& dense, Model& compressed, const Calibration& calibration, const TuneOptions& options, ThreadPool& pool,
                const std::function<void(std::string_view stage, double share)>& advance = {}, const MessageFunction& message = {});

}  // namespace miq
