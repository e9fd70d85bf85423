// Is work on a text about linear in its length? Processor time, so that a busy machine does not matter.
#pragma once

#include <gtest/gtest.h>
#include <time.h>

#include <string>

namespace miq::test {

template <class Work>
double processor_seconds(Work&& work) {
  timespec start{}, end{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
  work();
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
  return static_cast<double>(end.tv_sec - start.tv_sec) + 1e-9 * static_cast<double>(end.tv_nsec - start.tv_nsec);
}

// `work` on 1 MB of `unit` against 250 kB: 4 times the work when linear, 16 times when quadratic.
template <class Work>
void expect_about_linear(const std::string& unit, Work&& work) {
  const auto seconds = [&](std::size_t bytes) {
    std::string text;
    while (text.size() < bytes) text += unit;
    return processor_seconds([&] { work(text); });
  };
  seconds(1000);
  const double small = seconds(250'000), large = seconds(1'000'000);
  EXPECT_LT(large, 9 * small + 0.2) << "on repetitions of " << unit;
}

}  // namespace miq::test
