// Reads VmHWM and RssAnon from /proc/self/status; "5" in /proc/self/clear_refs resets the former.
#include "miq/evaluate/memory.h"

#include "miq/evaluate/memory_budget.h"

#include <algorithm>
#include <fstream>
#include <string>
#include <string_view>

namespace miq {
namespace {

// Bytes of a field of /proc/self/status that is given in kB; 0 when absent.
std::uint64_t status_bytes(std::string_view field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(field, 0) == 0 && line.size() > field.size() && line[field.size()] == ':') {
      return 1024 * std::strtoull(line.c_str() + field.size() + 1, nullptr, 10);
    }
  }
  return 0;
}

}  // namespace

std::uint64_t anonymous_bytes() { return status_bytes("RssAnon"); }

MemoryWatch::MemoryWatch() {
  std::ofstream("/proc/self/clear_refs") << "5";
  figures_.idle_anonymous_bytes = figures_.peak_anonymous_bytes = status_bytes("RssAnon");
}

void MemoryWatch::sample() {
  const std::uint64_t now = status_bytes("RssAnon");
  std::lock_guard lock(mutex_);
  figures_.peak_anonymous_bytes = std::max(figures_.peak_anonymous_bytes, now);
}

double MemoryWatch::seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - made_).count(); }

MemoryFigures MemoryWatch::figures() {
  sample();
  std::lock_guard lock(mutex_);
  figures_.peak_bytes = status_bytes("VmHWM");
  return figures_;
}

}  // namespace miq
