// Calibration by several processes: each has its own windows, and what is summed over windows is summed over processes.
#pragma once

#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "miq/base/ranks.h"
#include "miq/compress/calibration.h"
#include "miq/compress/window_states.h"

namespace miq {

// The windows of this process, in their order (share_of()), without the description. Throws UsageError where a process would have none.
Calibration own_windows(const Ranks& ranks, const Calibration& calibration);
// Rank 0's, for all.
void share_calibration(Ranks& ranks, Calibration& calibration);

// [rows, n] float32 of all ranks, one behind the other, in the rank `to`; undefined where there are none, and elsewhere.
at::Tensor gather_rows(Ranks& ranks, const at::Tensor& rows, std::int64_t columns, int to);

// States of each process' own windows <-> those of all windows in rank 0, which holds one of them at a time: a window is sent when rank 0 asks for it, or
// has it. By all ranks together; rank 0 has windows.
//
// `use`: in rank 0 alone, gets the states of all windows.
void gather_windows(Ranks& ranks, const StateSource& own, const std::function<void(const StateSource& all)>& use);
// `shape` and `give`: rank 0's; give() hands all windows, in order, to what it gets. `take` gets this rank's own, numbered from 0.
void scatter_windows(Ranks& ranks, StateShape shape, const std::function<void(const StateSink& all)>& give, const StateSink& take);

}  // namespace miq
