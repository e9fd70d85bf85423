// Workers sleep until a job (a unit counter and a function) appears, then draw unit numbers from the
// shared counter until it is used up. Units are handed out in order, so the lowest-numbered failing
// unit has always been started before any higher one could stop the list.
#include "miq/base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
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
  std::mutex mutex;       // guards everything below
  std::condition_variable wake, done;
  Job* job = nullptr;
  std::uint64_t generation = 0;
  int busy = 0;
  bool stop = false;

  void worker() {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex);
    for (;;) {
      wake.wait(lock, [&] { return stop || generation != seen; });
      if (stop) return;
      seen = generation;
      Job* current = job;
      lock.unlock();
      current->run();
      lock.lock();
      if (--busy == 0) done.notify_all();
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
  {
    std::lock_guard lock(state_->mutex);
    state_->job = &job;
    state_->busy = static_cast<int>(state_->workers.size());
    ++state_->generation;
  }
  state_->wake.notify_all();
  job.run();
  {
    std::unique_lock lock(state_->mutex);
    state_->done.wait(lock, [&] { return state_->busy == 0; });
    state_->job = nullptr;
  }
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace miq
