// What a message-passing library offers to ranks_library.h, as a table of C functions: the only thing that the suite and mpi/ranks_mpi.cc
// have in common. No function is called while another one runs; all return at once, but for join().
#pragma once

#include <cstdint>

extern "C" {

struct MiqRanksTable {
  std::uint32_t version;  // kMiqRanksVersion
  int rank, size, local_size;
  // Begins the one operation that may be under way; 0, or -1 with problem(). The buffers stay in use until test() says 1.
  int (*begin_sum)(double* values, std::uint64_t count, int to);  // to: -1 for all
  int (*begin_broadcast)(void* bytes, std::uint64_t count, int from);
  int (*begin_send)(const void* bytes, std::uint64_t count, int to);
  int (*begin_receive)(void* bytes, std::uint64_t count, int from);
  int (*begin_barrier)(void);
  int (*test)(void);  // 1: done, 0: not yet, -1: failed
  const char* (*problem)(void);
  // Small messages beside the operations, at most kMiqNoteBytes: how the ranks watch over each other. post() copies, and drops the note
  // (returning 0) when too many are on their way; take() returns the bytes received, or -1 when there is none.
  int (*post)(int to, const void* bytes, std::uint32_t count);
  int (*take)(int* from, void* bytes);
  void (*abort)(int code);  // ends all processes, as far as they can be reached
  void (*leave)(void);      // the run is over, in all ranks
};

// The library's one symbol. Joins the others; null with a message in `problem`.
typedef const MiqRanksTable* (*MiqRanksJoin)(char* problem, std::uint64_t capacity);
}

inline constexpr std::uint32_t kMiqRanksVersion = 1;
inline constexpr std::uint32_t kMiqNoteBytes = 4096;
inline constexpr const char* kMiqRanksJoin = "miq_ranks_join";
