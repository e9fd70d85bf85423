// How much memory this process takes while a model is opened and evaluated (Linux: /proc/self).
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>

namespace miq {

struct MemoryFigures {
  std::uint64_t peak_bytes = 0;            // resident, mapped files and libraries included (VmHWM)
  std::uint64_t peak_anonymous_bytes = 0;  // without mapped files: the highest of the samples
  std::uint64_t idle_anonymous_bytes = 0;  // when the watch was made
};

// Make one before a model is opened: it resets the kernel's high-water mark where that is allowed
// (otherwise the peak is that of the process since its start).
class MemoryWatch {
 public:
  MemoryWatch();
  void sample();  // any thread; a few times a second is enough
  MemoryFigures figures();
  double seconds() const;  // since the watch was made

 private:
  std::mutex mutex_;
  MemoryFigures figures_;
  std::chrono::steady_clock::time_point made_ = std::chrono::steady_clock::now();
};

}  // namespace miq
