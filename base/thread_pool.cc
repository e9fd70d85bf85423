// Workers wait until a job (a unit counter and a function) appears, awake for a moment and then asleep, and draw
// unit numbers from the shared counter until it is used up. Whoever comes too late is not waited for. Units are handed out in order, so the lowest-numbered failing
// unit has always been started before any higher one could stop the list.
#include "miq/base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace miq {
namespace {

// True while this thread runs a unit: nested calls then run inline.
thread_local bool inside_unit = false;

int usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

// A thread that sleeps takes longer to come back than most units of a generated token take, so both sides of a call wait this long awake
// before they sleep. That pays where calls follow each other at once and the processors are free; who waits in vain, or loses its processor
// meanwhile, sleeps at once the next times, each time that it happens again for longer.
class Patience {
 public:
  // Whether the condition came true without sleep.
  template <class Condition>
  bool wait(const Condition& condition) {
    if (condition()) return true;
    if (skip_ > 0) {
      --skip_;
      return false;
    }
    const auto start = std::chrono::steady_clock::now();
    bool came = false;
    std::chrono::steady_clock::duration passed{};
    do {
      for (int i = 0; i < 16 && !came; ++i) {
        breathe();
        came = condition();
      }
      passed = std::chrono::steady_clock::now() - start;
    } while (!came && passed < kAwake);
    vain_ = passed > 4 * kAwake ? kMostSkipped : came ? 0 : std::min(2 * vain_ + 1, kMostSkipped);
    skip_ = vain_;
    return came;
  }

 private:
  static constexpr std::chrono::microseconds kAwake{50};
  static constexpr int kMostSkipped = 127;

  static void breathe() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  int skip_ = 0, vain_ = 0;
};

struct Job {
  std::int64_t units = 0;
  const std::function<void(std::int64_t)>* work = nullptr;
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex error_mutex;
  std::int64_t error_unit = 0;
  std::exception_ptr error;

  void run() {
    inside_unit = true;
    for (std::int64_t unit; !failed && (unit = next.fetch_add(1)) < units;) {
      try {
        (*work)(unit);
      } catch (...) {
        std::lock_guard lock(error_mutex);
        if (!error || unit < error_unit) {
          error = std::current_exception();
          error_unit = unit;
        }
        failed = true;
      }
    }
    inside_unit = false;
  }
};

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> workers;
  std::mutex call_mutex;  // one for_each at a time
  Patience patience;      // the caller's
  // The open job; null: none. A worker counts itself inside before it looks for one, and the caller looks for workers inside after it has
  // closed the job, so either the worker finds nothing or the caller waits for it (all these are sequentially consistent).
  std::atomic<Job*> job{nullptr};
  std::atomic<int> inside{0};
  std::atomic<std::uint64_t> generation{0};  // of jobs; raised under the mutex
  std::atomic<bool> stop{false}, caller_sleeps{false};
  std::mutex mutex;
  std::condition_variable wake, done;

  void worker() {
    std::uint64_t seen = 0;
    Patience own;
    const auto news = [&] { return stop || generation != seen; };
    for (;;) {
      if (!own.wait(news)) {
        std::unique_lock lock(mutex);
        wake.wait(lock, news);
      }
      if (stop) return;
      seen = generation;
      ++inside;
      if (Job* current = job) current->run();
      if (--inside == 0 && caller_sleeps) {
        std::lock_guard lock(mutex);
        done.notify_all();
      }
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  const int count = threads > 0 ? threads : usable_processors();
  for (int i = 1; i < count; ++i) state_->workers.emplace_back([this] { state_->worker(); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->wake.notify_all();
  for (auto& worker : state_->workers) worker.join();
}

int ThreadPool::threads() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::for_each(std::int64_t units, const std::function<void(std::int64_t unit)>& work) {
  if (units <= 0) return;
  if (inside_unit) {
    for (std::int64_t unit = 0; unit < units; ++unit) work(unit);
    return;
  }
  std::lock_guard call(state_->call_mutex);
  Job job;
  job.units = units;
  job.work = &work;
  if (units > 1) {
    state_->job = &job;
    {
      std::lock_guard lock(state_->mutex);
      ++state_->generation;
    }
    state_->wake.notify_all();
  }
  job.run();
  state_->job = nullptr;
  const auto left = [&] { return state_->inside == 0; };
  if (!state_->patience.wait(left)) {
    state_->caller_sleeps = true;
    std::unique_lock lock(state_->mutex);
    state_->done.wait(lock, left);
    state_->caller_sleeps = false;
  }
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace miq
