// The processes of one run, which may lie on several machines: who we are, sums over all, bytes from one to all or from one to
// another. Alone there is one rank, 0, and every operation does nothing. With several the operations are MPI's (ranks_library.h).
//
// All ranks call the same operations in the same order; each returns when its buffers may be used again. Called from one thread of
// a process at a time. An operation that cannot end, because another rank failed or is out of reach, throws or ends the process.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace miq {

class Ranks {
 public:
  static constexpr int kAll = -1;
  static constexpr int kFirst = 0;  // the rank that writes and speaks

  virtual ~Ranks() = default;
  Ranks() = default;
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  virtual int rank() const { return 0; }
  virtual int size() const { return 1; }
  // How many ranks share this machine.
  virtual int local_size() const { return 1; }
  bool alone() const { return size() == 1; }
  bool first() const { return rank() == kFirst; }

  // Each entry becomes its sum over all ranks, in the rank `to` or in all; elsewhere it is unspecified afterwards. Floats are summed in
  // float64 and rounded once: of numbers that differ by less than 2^29 times the sum is exact, whatever the number of ranks.
  virtual void sum(std::span<double> values, int to = kAll);
  void sum(std::span<float> values, int to = kAll);
  // The bytes of rank `from` replace those of the others. Of the same size in all.
  virtual void broadcast(std::span<std::uint8_t> bytes, int from = kFirst);
  // The same where only `from` knows the size.
  void broadcast(std::vector<std::uint8_t>& bytes, int from = kFirst);
  std::uint64_t broadcast(std::uint64_t value, int from = kFirst);
  std::string broadcast(std::string text, int from = kFirst);
  // Between two ranks; the receiver gives the size that the sender gives.
  virtual void send(std::span<const std::uint8_t> bytes, int to);
  virtual void receive(std::span<std::uint8_t> bytes, int from);
  virtual void barrier();

  // What this process has sent and received so far, summed over the operations' buffers; and the seconds spent in them, waiting included.
  struct Traffic {
    std::uint64_t summed = 0, broadcast = 0, sent = 0;  // bytes
    double seconds = 0;
  };
  const Traffic& traffic() const { return traffic_; }

 protected:
  Traffic traffic_;
};

// A run of its own.
Ranks& no_other_ranks();

// What every rank gives, [rank], known to all.
std::vector<std::vector<std::uint8_t>> exchange(Ranks& ranks, std::vector<std::uint8_t> own);

// The numbers 0 … count-1 that a rank has: every size-th, so that any first few of them are spread evenly.
inline std::int64_t share_of(const Ranks& ranks, std::int64_t count) { return (count - ranks.rank() + ranks.size() - 1) / ranks.size(); }
inline int owner_of(const Ranks& ranks, std::int64_t number) { return static_cast<int>(number % ranks.size()); }

// Spreads jobs of known cost over `ranks` processes: the dearest first, each to the one with the least so far. The same everywhere.
std::vector<int> spread_jobs(std::span<const double> costs, int ranks);

}  // namespace miq
