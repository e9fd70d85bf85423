// Operations are begun and then polled: a process that waits for a slower one sleeps instead of burning a core, notices an interrupt, and
// leaves the library free in between for the thread that watches. One lock keeps all calls into the library apart.
//
// Watching is a star: every rank sends a sign of life to rank 0, and rank 0 to every rank. Rank 0 ends the run for all when one is silent; the others
// end themselves when rank 0 is, a little later and one after the other, so that whoever can still reach the rest speaks first.
#include "miq/base/ranks_library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>

#include "miq/base/error.h"
#include "miq/base/ranks_table.h"

namespace miq {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr std::uint8_t kBeat = 'B', kFailure = 'F';
constexpr double kPoll = 0.1;         // seconds between two looks of the watching thread
constexpr double kLastResort = 5;     // seconds for the library's abort before the process ends by itself
constexpr double kLeaving = 30;       // the same for leaving

Clock::duration ticks(double seconds) { return std::chrono::duration_cast<Clock::duration>(Seconds(seconds)); }

// Ends this process when it has not ended by then.
void end_later(double seconds, int code) {
  std::thread([=] {
    std::this_thread::sleep_for(ticks(seconds));
    std::_Exit(code);
  }).detach();
}

std::string name_of(int rank, int size) { return "process " + std::to_string(rank + 1) + " of " + std::to_string(size); }

}  // namespace

struct LibraryRanks::State {
  const MiqRanksTable& table;
  const RanksOptions options;
  std::timed_mutex calls;        // into the table
  std::atomic<bool> ending{false};  // somebody has said why the run stops
  std::mutex stop_mutex;
  std::condition_variable stop_changed;
  bool stop = false;
  std::thread watcher;

  State(const MiqRanksTable& its_table, RanksOptions its_options) : table(its_table), options(std::move(its_options)) {}

  // Ends all processes; never returns.
  [[noreturn]] void end(int code) {
    end_later(kLastResort, code);
    const bool locked = calls.try_lock_for(std::chrono::seconds(2));
    table.abort(code);
    if (locked) calls.unlock();
    for (;;) pause();
  }

  // The first who calls says why, and ends the run.
  void stop_all(const std::string& message, int code) {
    if (ending.exchange(true)) return;
    if (options.lost) options.lost(message);
    end(code);
  }

  void post(int to, std::span<const std::uint8_t> note) {
    std::lock_guard lock(calls);
    table.post(to, note.data(), static_cast<std::uint32_t>(note.size()));
  }

  void beat() {
    if (table.rank == 0) {
      for (int other = 1; other < table.size; ++other) post(other, {&kBeat, 1});
    } else {
      post(0, {&kBeat, 1});
    }
  }

  // Takes the notes that came; what another rank could not do stops the run.
  void read_notes(std::vector<Clock::time_point>& heard) {
    std::array<std::uint8_t, kMiqNoteBytes> note;
    for (;;) {
      int from = 0, size = -1;
      {
        std::lock_guard lock(calls);
        size = table.take(&from, note.data());
      }
      if (size <= 0) return;
      heard[static_cast<std::size_t>(from)] = Clock::now();
      if (note[0] == kFailure && size >= 2) {
        stop_all(name_of(from, table.size) + ": " + std::string(note.begin() + 2, note.begin() + size), note[1]);
      }
    }
  }

  void watch() {
    std::vector<Clock::time_point> heard(static_cast<std::size_t>(table.size), Clock::now());
    Clock::time_point last = Clock::now(), next_beat = last;
    const bool first = table.rank == 0;
    const double patience = first ? options.patience_seconds : options.patience_seconds * 1.3 + std::min(5.0, 0.3 * table.rank);
    for (std::unique_lock lock(stop_mutex); !stop_changed.wait_for(lock, ticks(std::min(kPoll, options.beat_seconds)), [&] { return stop; });) {
      lock.unlock();
      const Clock::time_point now = Clock::now();
      // This process was itself asleep: what the others sent meanwhile is still to be read.
      if (Seconds(now - last).count() > patience / 4) std::fill(heard.begin(), heard.end(), now);
      last = now;
      if (now >= next_beat) {
        beat();
        next_beat = now + ticks(options.beat_seconds);
      }
      read_notes(heard);
      for (int other = first ? 1 : 0; other < (first ? table.size : 1); ++other) {
        const double silent = Seconds(Clock::now() - heard[static_cast<std::size_t>(other)]).count();
        if (silent < patience) continue;
        stop_all(name_of(other, table.size) + " has not been heard of for " + std::to_string(static_cast<int>(silent)) +
                     " seconds: it, its machine or the network between is down, so all processes end",
                 1);
      }
      lock.lock();
    }
  }

  void end_watching() {
    {
      std::lock_guard lock(stop_mutex);
      stop = true;
    }
    stop_changed.notify_all();
    if (watcher.joinable()) watcher.join();
  }
};

LibraryRanks::LibraryRanks(const MiqRanksTable& table, RanksOptions options) : state_(std::make_unique<State>(table, std::move(options))) {
  if (table.size > 1) state_->watcher = std::thread([this] { state_->watch(); });
}

LibraryRanks::~LibraryRanks() { state_->end_watching(); }

int LibraryRanks::rank() const { return state_->table.rank; }
int LibraryRanks::size() const { return state_->table.size; }
int LibraryRanks::local_size() const { return state_->table.local_size; }

void LibraryRanks::wait(const char* what) {
  const auto started = Clock::now();
  auto pause = std::chrono::microseconds(5);
  for (int polls = 0;; ++polls) {
    int done = 0;
    {
      std::lock_guard lock(state_->calls);
      done = state_->table.test();
    }
    if (done > 0) break;
    if (done < 0) throw Error(std::string(what) + " between the processes failed: " + state_->table.problem());
    if (polls < 50) {
      std::this_thread::yield();
      continue;
    }
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::microseconds(200));
    if (state_->options.waiting && polls % 64 == 0) state_->options.waiting();
  }
  traffic_.seconds += Seconds(Clock::now() - started).count();
}

namespace {
void check(int begun, const MiqRanksTable& table, const char* what) {
  if (begun != 0) throw Error(std::string(what) + " between the processes failed: " + table.problem());
}
}  // namespace

void LibraryRanks::sum(std::span<double> values, int to) {
  if (alone()) return;
  traffic_.summed += values.size_bytes();
  {
    std::lock_guard lock(state_->calls);
    check(state_->table.begin_sum(values.data(), values.size(), to), state_->table, "a sum");
  }
  wait("a sum");
}

void LibraryRanks::broadcast(std::span<std::uint8_t> bytes, int from) {
  if (alone()) return;
  traffic_.broadcast += bytes.size();
  {
    std::lock_guard lock(state_->calls);
    check(state_->table.begin_broadcast(bytes.data(), bytes.size(), from), state_->table, "a broadcast");
  }
  wait("a broadcast");
}

void LibraryRanks::send(std::span<const std::uint8_t> bytes, int to) {
  traffic_.sent += bytes.size();
  {
    std::lock_guard lock(state_->calls);
    check(state_->table.begin_send(bytes.data(), bytes.size(), to), state_->table, "a message");
  }
  wait("a message");
}

void LibraryRanks::receive(std::span<std::uint8_t> bytes, int from) {
  traffic_.sent += bytes.size();
  {
    std::lock_guard lock(state_->calls);
    check(state_->table.begin_receive(bytes.data(), bytes.size(), from), state_->table, "a message");
  }
  wait("a message");
}

void LibraryRanks::barrier() {
  if (alone()) return;
  {
    std::lock_guard lock(state_->calls);
    check(state_->table.begin_barrier(), state_->table, "a barrier");
  }
  wait("a barrier");
}

void LibraryRanks::leave() {
  barrier();
  state_->end_watching();
  end_later(kLeaving, 1);
  std::lock_guard lock(state_->calls);
  state_->table.leave();
}

void LibraryRanks::fail(const std::string& message, int code) {
  State& state = *state_;
  if (!first()) {
    std::vector<std::uint8_t> note{kFailure, static_cast<std::uint8_t>(code)};
    note.insert(note.end(), message.begin(), message.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(message.size(), kMiqNoteBytes - 2)));
    state.post(kFirst, note);
    // Rank 0 speaks, and ends us. Where it cannot, this process does.
    for (int waited = 0; waited < 50 && !state.ending; ++waited) std::this_thread::sleep_for(ticks(kLastResort / 50));
  }
  state.stop_all(message, code);
  for (;;) pause();  // another thread is ending the run
}

std::unique_ptr<LibraryRanks> join_ranks(const std::string& library, RanksOptions options) {
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr) throw Error(library + ": cannot be loaded: " + dlerror());
  const auto join = reinterpret_cast<MiqRanksJoin>(dlsym(handle, kMiqRanksJoin));
  if (join == nullptr) throw Error(library + ": is no library for processes of miq");
  std::array<char, 1024> problem{};
  const MiqRanksTable* table = join(problem.data(), problem.size());
  if (table == nullptr) throw Error(library + ": " + problem.data());
  if (table->version != kMiqRanksVersion) throw Error(library + ": belongs to another version of miq");
  return std::make_unique<LibraryRanks>(*table, std::move(options));
}

}  // namespace miq
