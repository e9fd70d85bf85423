// Where a running job is, drawn on stderr: stage, share done, time spent and an estimate of the time left.
// On a terminal one line that rewrites itself; otherwise a line about every ten seconds.
#pragma once

#include <chrono>
#include <string>

#include "miq/base/progress.h"

namespace miq {

class ProgressLine {
 public:
  // `visible` false: shows no progress, and drops messages.
  explicit ProgressLine(bool visible);
  ~ProgressLine();  // clears the line
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // A new job: the estimate starts afresh. `title` stands in front of the stages.
  void start(std::string title);
  void show(const Progress& progress);
  // Prints a line on stderr, above the progress line.
  void message(const std::string& text);
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  bool visible_, terminal_, drawn_ = false;
  std::string title_, last_stage_;
  Clock::time_point started_, last_shown_;
};

// "42 s", "3 min 05 s", "2 h 07 min"
std::string duration_text(double seconds);

}  // namespace miq
