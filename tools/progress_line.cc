// The estimate is the time spent so far scaled by the work left: libraries report work in units that grow
// evenly with time (base/progress.h), so nothing cleverer is needed. Redrawn four times a second at most.
#include "miq/tools/progress_line.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace miq {
namespace {

constexpr double kTerminalInterval = 0.25, kPlainInterval = 10;  // seconds between two drawings

int terminal_width() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 100;
}

// Cut to `width` columns without splitting a UTF-8 sequence.
std::string fit(std::string text, int width) {
  if (static_cast<int>(text.size()) <= width) return text;
  std::size_t cut = static_cast<std::size_t>(std::max(0, width));
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;
  return text.substr(0, cut);
}

}  // namespace

std::string duration_text(double seconds) {
  const auto whole = static_cast<long long>(std::llround(std::max(0.0, seconds)));
  char text[48];
  if (whole < 60) {
    std::snprintf(text, sizeof text, "%lld s", whole);
  } else if (whole < 3600) {
    std::snprintf(text, sizeof text, "%lld min %02lld s", whole / 60, whole % 60);
  } else {
    std::snprintf(text, sizeof text, "%lld h %02lld min", whole / 3600, whole / 60 % 60);
  }
  return text;
}

ProgressLine::ProgressLine(bool visible) : visible_(visible), terminal_(isatty(STDERR_FILENO) == 1) { start({}); }

ProgressLine::~ProgressLine() { clear(); }

void ProgressLine::start(std::string title) {
  clear();
  title_ = std::move(title);
  last_stage_.clear();
  started_ = Clock::now();
  // The first plain line comes after one interval: short jobs stay silent in a log.
  last_shown_ = terminal_ ? Clock::time_point{} : started_;
}

void ProgressLine::show(const Progress& progress) {
  if (!visible_) return;
  const auto now = Clock::now();
  const double since = std::chrono::duration<double>(now - last_shown_).count();
  if (since < (terminal_ ? kTerminalInterval : kPlainInterval)) return;
  last_shown_ = now;
  const double share = progress.total > 0 ? std::clamp(progress.done / progress.total, 0.0, 1.0) : 0;
  const double spent = std::chrono::duration<double>(now - started_).count();
  char percent[16];
  std::snprintf(percent, sizeof percent, "%3.0f %%", 100 * share);
  std::string line = title_.empty() ? std::string() : title_ + ": ";
  line += std::string(progress.stage) + "  " + percent + ", " + duration_text(spent);
  // The first moments give no useful estimate.
  if (share > 0.005 && spent > 1) line += ", about " + duration_text(spent * (1 - share) / share) + " left";
  if (terminal_) {
    std::fprintf(stderr, "\r\033[K%s", fit(line, terminal_width() - 1).c_str());
    drawn_ = true;
  } else {
    std::fprintf(stderr, "%s\n", line.c_str());
  }
  std::fflush(stderr);
}

void ProgressLine::message(const std::string& text) {
  if (!visible_) return;
  clear();
  std::fprintf(stderr, "%s\n", text.c_str());
  std::fflush(stderr);
}

void ProgressLine::clear() {
  if (!drawn_) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
  drawn_ = false;
}

}  // namespace miq
