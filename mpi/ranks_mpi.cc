// The operations of base/ranks_table.h by MPI, with non-blocking calls alone, so that one lock on the other side serves two threads.
// Counts of MPI are ints: what is larger goes in pieces, one after the other.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "miq/base/ranks_table.h"

namespace {

constexpr std::uint64_t kPieceBytes = std::uint64_t{16} << 20;
constexpr std::size_t kNotesUnderWay = 256;  // a lost machine takes none: they must not pile up
constexpr int kNoteTag = 1, kDataTag = 2;

MPI_Comm operations, notes;
MiqRanksTable table;
char problem_text[MPI_MAX_ERROR_STRING + 64];

int failed(int code) {
  int length = 0;
  if (MPI_Error_string(code, problem_text, &length) != MPI_SUCCESS) std::snprintf(problem_text, sizeof problem_text, "MPI error %d", code);
  return -1;
}

// The operation under way: pieces are begun one by one.
enum class Kind { None, Sum, Broadcast, Send, Receive, Barrier };
Kind kind = Kind::None;
std::uint8_t* rest = nullptr;
std::uint64_t rest_bytes = 0;
int partner = 0;
MPI_Request request = MPI_REQUEST_NULL;

int begin_piece() {
  const std::uint64_t size = std::min(rest_bytes, kPieceBytes);
  const int count = static_cast<int>(size);
  int code = MPI_SUCCESS;
  switch (kind) {
    case Kind::Sum: {
      const int doubles = count / static_cast<int>(sizeof(double));
      if (partner < 0) {
        code = MPI_Iallreduce(MPI_IN_PLACE, rest, doubles, MPI_DOUBLE, MPI_SUM, operations, &request);
      } else if (partner == table.rank) {
        code = MPI_Ireduce(MPI_IN_PLACE, rest, doubles, MPI_DOUBLE, MPI_SUM, partner, operations, &request);
      } else {
        code = MPI_Ireduce(rest, nullptr, doubles, MPI_DOUBLE, MPI_SUM, partner, operations, &request);
      }
      break;
    }
    case Kind::Broadcast: code = MPI_Ibcast(rest, count, MPI_BYTE, partner, operations, &request); break;
    case Kind::Send: code = MPI_Isend(rest, count, MPI_BYTE, partner, kDataTag, operations, &request); break;
    case Kind::Receive: code = MPI_Irecv(rest, count, MPI_BYTE, partner, kDataTag, operations, &request); break;
    case Kind::Barrier: code = MPI_Ibarrier(operations, &request); break;
    case Kind::None: break;
  }
  rest += size;
  rest_bytes -= size;
  return code == MPI_SUCCESS ? 0 : failed(code);
}

int begin(Kind what, void* bytes, std::uint64_t count, int who) {
  kind = what;
  rest = static_cast<std::uint8_t*>(bytes);
  rest_bytes = count;
  partner = who;
  if (count == 0 && what != Kind::Barrier) return 0;  // the same in all ranks: nothing to begin
  return begin_piece();
}

int begin_sum(double* values, std::uint64_t count, int to) { return begin(Kind::Sum, values, count * sizeof(double), to); }
int begin_broadcast(void* bytes, std::uint64_t count, int from) { return begin(Kind::Broadcast, bytes, count, from); }
int begin_send(const void* bytes, std::uint64_t count, int to) { return begin(Kind::Send, const_cast<void*>(bytes), count, to); }
int begin_receive(void* bytes, std::uint64_t count, int from) { return begin(Kind::Receive, bytes, count, from); }
int begin_barrier() { return begin(Kind::Barrier, nullptr, 0, 0); }

int test() {
  for (;;) {
    int done = 0;
    if (const int code = MPI_Test(&request, &done, MPI_STATUS_IGNORE); code != MPI_SUCCESS) return failed(code);
    if (!done) return 0;
    if (rest_bytes == 0) {
      kind = Kind::None;
      return 1;
    }
    if (begin_piece() != 0) return -1;
  }
}

const char* problem() { return problem_text; }

struct Note {
  std::vector<std::uint8_t> bytes;
  MPI_Request request = MPI_REQUEST_NULL;
};
std::deque<Note> posted;
std::vector<std::uint8_t> incoming(kMiqNoteBytes);
MPI_Request expected = MPI_REQUEST_NULL;

int post(int to, const void* bytes, std::uint32_t count) {
  std::erase_if(posted, [](Note& note) {
    int done = 0;
    return MPI_Test(&note.request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS || done;
  });
  if (posted.size() >= kNotesUnderWay + static_cast<std::size_t>(table.size)) return 0;
  Note& note = posted.emplace_back();
  const auto* first = static_cast<const std::uint8_t*>(bytes);
  note.bytes.assign(first, first + count);
  const int code = MPI_Isend(note.bytes.data(), static_cast<int>(count), MPI_BYTE, to, kNoteTag, notes, &note.request);
  return code == MPI_SUCCESS ? 0 : failed(code);
}

int take(int* from, void* bytes) {
  if (expected == MPI_REQUEST_NULL &&
      MPI_Irecv(incoming.data(), kMiqNoteBytes, MPI_BYTE, MPI_ANY_SOURCE, kNoteTag, notes, &expected) != MPI_SUCCESS) {
    return -1;
  }
  int done = 0;
  MPI_Status status;
  if (MPI_Test(&expected, &done, &status) != MPI_SUCCESS || !done) return -1;
  int count = 0;
  MPI_Get_count(&status, MPI_BYTE, &count);
  *from = status.MPI_SOURCE;
  std::memcpy(bytes, incoming.data(), static_cast<std::size_t>(count));
  return count;
}

void abort_all(int code) { MPI_Abort(MPI_COMM_WORLD, code); }

void leave() {
  if (expected != MPI_REQUEST_NULL) {
    MPI_Cancel(&expected);
    MPI_Request_free(&expected);
  }
  MPI_Finalize();
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const MiqRanksTable* miq_ranks_join(char* problem_out, std::uint64_t capacity) {
  int provided = 0;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS || provided < MPI_THREAD_SERIALIZED) {
    std::snprintf(problem_out, capacity, "MPI could not be started with threads that take turns (MPI_THREAD_SERIALIZED)");
    return nullptr;
  }
  MPI_Comm local;
  MPI_Comm_dup(MPI_COMM_WORLD, &operations);
  MPI_Comm_dup(MPI_COMM_WORLD, &notes);
  MPI_Comm_set_errhandler(operations, MPI_ERRORS_RETURN);
  MPI_Comm_set_errhandler(notes, MPI_ERRORS_RETURN);
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &local);
  table = {.version = kMiqRanksVersion,
           .rank = 0,
           .size = 1,
           .local_size = 1,
           .begin_sum = begin_sum,
           .begin_broadcast = begin_broadcast,
           .begin_send = begin_send,
           .begin_receive = begin_receive,
           .begin_barrier = begin_barrier,
           .test = test,
           .problem = problem,
           .post = post,
           .take = take,
           .abort = abort_all,
           .leave = leave};
  MPI_Comm_rank(operations, &table.rank);
  MPI_Comm_size(operations, &table.size);
  MPI_Comm_size(local, &table.local_size);
  MPI_Comm_free(&local);
  return &table;
}
