// Lines for people, as report.cc and forecast.cc write them.
#pragma once

#include <string>

namespace miq {

// printf into a string; what lies beyond 511 bytes is cut off.
std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));

}  // namespace miq
