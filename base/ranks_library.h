// Several processes, by a message-passing library that is loaded when they were started by its launcher. A thread of each process
// watches over the others: one that dies, or cannot be reached, stops the run in all of them, with one message.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "miq/base/ranks.h"

struct MiqRanksTable;  // ranks_table.h

namespace miq {

struct RanksOptions {
  double beat_seconds = 1;       // between two signs of life
  double patience_seconds = 15;  // without any sign before a process counts as lost
  // Called, in any thread, at most once in a process, and in rank 0 wherever that can: what stopped the run. The process ends when it returns.
  std::function<void(const std::string& message)> lost;
  // Called while an operation waits, in the thread that waits: may throw (an interrupt).
  std::function<void()> waiting;
};

class LibraryRanks : public Ranks {
 public:
  // `table` outlives it.
  LibraryRanks(const MiqRanksTable& table, RanksOptions options);
  ~LibraryRanks() override;

  int rank() const override;
  int size() const override;
  int local_size() const override;
  void sum(std::span<double> values, int to = kAll) override;
  using Ranks::sum;
  void broadcast(std::span<std::uint8_t> bytes, int from = kFirst) override;
  using Ranks::broadcast;
  void send(std::span<const std::uint8_t> bytes, int to) override;
  void receive(std::span<std::uint8_t> bytes, int from) override;
  void barrier() override;

  // The work is done: waits for the others, and leaves the run. No operation may follow.
  void leave();
  // This process cannot go on, because of `message`. Whichever process is first to say so is heard: rank 0 by calling lost() where the message
  // is another rank's, and printing nothing where it is its own (the caller does). Ends all processes. Never returns.
  [[noreturn]] void fail(const std::string& message, int code);

 private:
  struct State;
  void wait(const char* what);
  std::unique_ptr<State> state_;
};

// Loads the library and joins. Throws Error when it cannot be loaded or refuses.
std::unique_ptr<LibraryRanks> join_ranks(const std::string& library, RanksOptions options);

}  // namespace miq
