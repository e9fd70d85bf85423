// How long work reports where it is. Libraries call the function they were given (never print);
// programs draw it with an estimate of the time left (tools/progress_line.h).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace miq {

struct Progress {
  std::string_view stage;  // "calibration", "layer 3 of 30", …; shown as it is
  double done = 0;         // work done of the whole job, in any unit that grows evenly with time
  double total = 1;        // the whole job, same unit
};

// May be empty. Called from the thread that called the library, a few times a second at most.
using ProgressFunction = std::function<void(const Progress&)>;

// A line for the user: a fact of the run ("layer 3 q_proj …"), without a newline. May be empty.
using MessageFunction = std::function<void(const std::string&)>;

}  // namespace miq
