// What the parts of a model are worth to its loss on calibration text, for structured removal: one walk forward and one back over a few
// windows (kSensitivityWindows, plan.h).
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "miq/base/thread_pool.h"
#include "miq/compress/calibration.h"
#include "miq/compress/methods.h"
#include "miq/model/forward.h"

namespace miq {

struct LayerScores {
  std::vector<double> groups, channels;  // [key/value heads], [MLP width]; empty for a deleted layer
};

// Fisher: with a what the output matrix reads from a head or channel and g = d loss / d a, E_t[(sum_j a_j g_j)^2] over its elements j:
//   the mean square of what taking it away does to the loss, to first order (Molchanov et al. 2019, arXiv:1906.10771).
// Taylor: sum of |w dL/dw| over all weights of the part, L the summed loss of all windows (LLM-Pruner's param_first).
// `advance` gets shares that sum to 1. Same bytes for any number of threads.
std::vector<LayerScores> measure_scores(const ForwardPass& dense, const Calibration& calibration, RemovalScore score, ThreadPool& pool,
                                        const std::function<void(std::string_view stage, double share)>& advance);

// For whole layers: 1 - the mean cosine of the residual stream before and behind each (Men et al. 2024, arXiv:2403.03853), over all
// windows.
std::vector<double> measure_turns(const ForwardPass& dense, const Calibration& calibration, ThreadPool& pool,
                                  const std::function<void(std::string_view stage, double share)>& advance);

}  // namespace miq
