// The suite's way to use several cores: a fixed list of work units, each done by one thread from
// start to end. What a unit computes must depend on its number alone, so results are the same bytes
// for any number of threads; reductions over units are done afterwards, in the units' order.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace miq {

class ThreadPool {
 public:
  // `threads` counts the calling thread; 0 takes the number of processors this process may use.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  // Calls work(0) … work(units - 1), each once, and returns when all are done. The calling thread
  // takes part. When units throw, the others still in the list are not started, and the exception
  // of the lowest-numbered unit that threw is rethrown. A call from inside a unit runs in that thread.
  void for_each(std::int64_t units, const std::function<void(std::int64_t unit)>& work);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace miq
