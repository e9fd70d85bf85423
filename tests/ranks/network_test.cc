// Two hosts of their own: network namespaces joined by a virtual cable, each with a host name, Open MPI's daemons on both. The cable is cut
// in the middle of a run. Needs root and iproute2; skips without.
#include <cstdlib>

#include "tests/ranks/mpirun.h"

namespace miq {
namespace {

namespace fs = std::filesystem;
using test::Ended;
using test::Running;

bool done(const std::string& command) { return std::system((command + " >/dev/null 2>&1").c_str()) == 0; }

class TwoHosts : public test::WithMpi {
 protected:
  void SetUp() override {
    test::WithMpi::SetUp();
    if (IsSkipped()) return;
    const std::string own = std::to_string(getpid() % 100000);
    a_ = "miqa" + own;
    b_ = "miqb" + own;
    made_ = done("ip netns add " + a_) && done("ip netns add " + b_) && done("ip link add va" + own + " netns " + a_ + " type veth peer name vb" + own + " netns " + b_) &&
            done("ip -n " + a_ + " addr add 10.77.1.1/24 dev va" + own) && done("ip -n " + b_ + " addr add 10.77.1.2/24 dev vb" + own) &&
            done("ip -n " + a_ + " link set va" + own + " up") && done("ip -n " + b_ + " link set vb" + own + " up") && done("ip -n " + a_ + " link set lo up") &&
            done("ip -n " + b_ + " link set lo up") && done("ip netns exec " + a_ + " unshare --uts true");
    if (!made_) GTEST_SKIP() << "no network namespaces can be made here (root, iproute2)";
    cable_ = "va" + own;
    std::ofstream(folder_ / "agent") << "#!/bin/sh\nshift\nexec ip netns exec " << b_ << " unshare --uts sh -c \"hostname " << b_ << "; $*\"\n";
    fs::permissions(folder_ / "agent", fs::perms::owner_all);
  }
  void TearDown() override {
    for (const std::string& name : {a_, b_}) {
      if (!name.empty()) done("ip netns del " + name);
    }
    test::WithMpi::TearDown();
  }
  std::vector<std::string> start(const std::string& mode) const {
    const std::string mpirun = std::string(MIQ_MPIRUN) + " --allow-run-as-root --oversubscribe --bind-to none --mca btl tcp,self --mca plm_rsh_agent " +
                               (folder_ / "agent").string() + " --host 10.77.1.1,10.77.1.2 -n 2 " + MIQ_RANKS_PROBE + " " + mode + " " + folder_.string();
    return {"ip", "netns", "exec", a_, "unshare", "--uts", "sh", "-c", "hostname " + a_ + "; exec " + mpirun};
  }
  std::string a_, b_, cable_;
  bool made_ = false;
};

TEST_F(TwoHosts, OperationsAreRight) {
  const Ended ended = Running(folder_, start("operations")).end(90);
  EXPECT_EQ(ended.status, 0) << ended.err;
  EXPECT_EQ(ended.out, "ranks 2 good\n");
}

TEST_F(TwoHosts, ACutCableEndsBothWithOneMessage) {
  Running running(folder_, start("wait"));
  const pid_t first = process(0), second = process(1);
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  ASSERT_TRUE(done("ip -n " + a_ + " link set " + cable_ + " down"));
  const double cut = running.seconds();
  while ((kill(first, 0) == 0 || kill(second, 0) == 0) && running.seconds() - cut < 60) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_LT(running.seconds() - cut, 30);
  // mpirun itself may wait for its daemon behind the cut.
  const Ended ended = running.end(0);
  EXPECT_EQ(test::count_of(ended.err, "ranks_probe: error: process 2 of 2 has not been heard of"), 1u) << ended.err;
  EXPECT_EQ(test::count_of(ended.err, "ranks_probe: error"), 1u) << ended.err;
}

}  // namespace
}  // namespace miq
