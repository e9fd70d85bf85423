// The operations between 1, 2 and 4 processes, and every way in which a run of several can end early: one message, and all are gone.
#include "tests/ranks/mpirun.h"

namespace miq {
namespace {

using test::Ended;
using test::Running;
namespace fs = std::filesystem;

class Launch : public test::WithMpi {
 protected:
  Ended probe(int processes, const std::string& mode, double patience = 60) {
    return Running(folder_, test::mpirun(processes, {MIQ_RANKS_PROBE, mode, "."})).end(patience);
  }
  // A process of the run ends, or stops, by `signal`.
  Ended lose(int processes, int rank, int signal, const std::string& mode = "wait") {
    for (int r = 0; r < processes; ++r) fs::remove(folder_ / ("pid" + std::to_string(r)));
    Running running(folder_, test::mpirun(processes, {MIQ_RANKS_PROBE, mode, "."}));
    for (int r = 0; r < processes; ++r) process(r);
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    kill(process(rank), signal);
    lost_at_ = running.seconds();
    Ended ended = running.end(40);
    if (signal == SIGSTOP) kill(process(rank), SIGKILL);
    return ended;
  }
  double lost_at_ = 0;
};

TEST_F(Launch, OperationsAreRightForAnyNumberOfProcesses) {
  for (int processes : {1, 2, 4}) {
    const Ended ended = probe(processes, "operations");
    EXPECT_EQ(ended.status, 0) << ended.err;
    EXPECT_EQ(ended.out, "ranks " + std::to_string(processes) + " good\n");
  }
}

TEST_F(Launch, AnErrorOfOneProcessIsTheRunsOneMessage) {
  const Ended ended = probe(3, "error");
  EXPECT_EQ(ended.status, 1);
  EXPECT_EQ(test::count_of(ended.err, "ranks_probe: error: process 3 of 3: the last one cannot go on"), 1u) << ended.err;
  EXPECT_EQ(test::count_of(ended.err, "ranks_probe: error"), 1u) << ended.err;
  EXPECT_LT(ended.seconds, 20);
}

TEST_F(Launch, AnErrorOfAllIsSaidOnce) {
  const Ended ended = probe(4, "usage");
  EXPECT_EQ(ended.status, 2);
  EXPECT_EQ(test::count_of(ended.err, "all of them say so"), 1u) << ended.err;
  const Ended unknown = Running(folder_, test::mpirun(2, {MIQ_RANKS_PROBE, "usage", ".", "--nothing-such"})).end(60);
  EXPECT_EQ(unknown.status, 2);
  EXPECT_EQ(test::count_of(unknown.err, "nothing-such"), 1u) << unknown.err;
}

TEST_F(Launch, AKilledProcessEndsAll) {
  for (int rank : {0, 1}) {
    const Ended ended = lose(2, rank, SIGKILL);
    EXPECT_NE(ended.status, 0);
    EXPECT_LT(ended.seconds - lost_at_, 30) << ended.err;
  }
}

TEST_F(Launch, AHaltedProcessEndsAllWithOneMessage) {
  const Ended ended = lose(2, 1, SIGSTOP);
  EXPECT_EQ(ended.status, 1);
  EXPECT_LT(ended.seconds - lost_at_, 30);
  EXPECT_EQ(test::count_of(ended.err, "process 2 of 2 has not been heard of for"), 1u) << ended.err;
  EXPECT_EQ(test::count_of(ended.err, "ranks_probe: error"), 1u) << ended.err;
}

// While the states of all windows go to rank 0's journal.
TEST_F(Launch, StatesForTheJournalEndWithWhoeverGivesThem) {
  const Ended good = probe(3, "states");
  EXPECT_EQ(good.status, 0) << good.err;
  EXPECT_EQ(good.out, "ranks 3 good\n");
  EXPECT_EQ(fs::file_size(folder_ / "journal" / "states.0"), 9u * 64 * 4096 * sizeof(float));
  fs::remove_all(folder_ / "journal");
  const Ended failed = probe(3, "states-error");
  EXPECT_EQ(failed.status, 1);
  EXPECT_EQ(test::count_of(failed.err, "ranks_probe: error: process 3 of 3: the last one cannot go on"), 1u) << failed.err;
  EXPECT_EQ(test::count_of(failed.err, "ranks_probe: error"), 1u) << failed.err;
  EXPECT_LT(failed.seconds, 20);
  fs::remove_all(folder_ / "journal");
  const Ended killed = lose(3, 2, SIGKILL, "states-hang");
  EXPECT_NE(killed.status, 0);
  EXPECT_LT(killed.seconds - lost_at_, 30) << killed.err;
  fs::remove_all(folder_ / "journal");
  const Ended silent = lose(3, 2, SIGSTOP, "states-hang");
  EXPECT_EQ(silent.status, 1);
  EXPECT_EQ(test::count_of(silent.err, "process 3 of 3 has not been heard of for"), 1u) << silent.err;
  EXPECT_EQ(test::count_of(silent.err, "ranks_probe: error"), 1u) << silent.err;
}

TEST_F(Launch, WithoutTheLibraryItIsSaidWhatIsMissing) {
  const Ended ended = Running(folder_, {"env", "OMPI_COMM_WORLD_SIZE=2", "MIQ_MPI_LIBRARY=/nowhere/libmiq_mpi.so", MIQ_RANKS_PROBE, "operations", "."}).end(20);
  EXPECT_EQ(ended.status, 1);
  EXPECT_NE(ended.err.find("2 processes were started together, but /nowhere/libmiq_mpi.so is not there"), std::string::npos) << ended.err;
}

}  // namespace
}  // namespace miq
