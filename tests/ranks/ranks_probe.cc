// A program that several processes run together, for the tests: every operation, or an end of one kind or another.
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iostream>
#include <numeric>
#include <thread>

#include <ATen/ops/full.h>

#include "miq/compress/rank_sums.h"
#include "miq/formats/journal.h"
#include "miq/tools/program.h"

namespace miq {
namespace {

void expect(bool good, const std::string& what) {
  if (!good) throw Error("wrong: " + what);
}

void check_operations(Ranks& ranks) {
  const int me = ranks.rank(), size = ranks.size();
  std::vector<double> sums(100'003);
  const auto fill = [&] {
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] = static_cast<double>(i) * (me + 1);
  };
  const double all = size * (size + 1) / 2.0;
  fill();
  ranks.sum(sums);
  for (std::size_t i = 0; i < sums.size(); ++i) expect(sums[i] == static_cast<double>(i) * all, "a sum in all");
  fill();
  ranks.sum(sums, size - 1);
  if (me == size - 1) expect(sums.back() == static_cast<double>(sums.size() - 1) * all, "a sum in one");
  std::vector<float> floats(1'100'001, 0.1f);
  ranks.sum(floats);
  expect(floats.front() == static_cast<float>(size * static_cast<double>(0.1f)) && floats.back() == floats.front(), "a sum of floats");
  for (int from : {0, size - 1}) {
    const std::size_t count = from == 0 ? 20'000'000 : 100'000;  // the first in more than one piece
    std::vector<std::uint8_t> bytes;
    if (me == from) {
      bytes.resize(count);
      for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 7 + i / 251);
    }
    ranks.broadcast(bytes, from);
    expect(bytes.size() == count, "a broadcast's size");
    for (std::size_t i = 0; i < bytes.size(); ++i) expect(bytes[i] == static_cast<std::uint8_t>(i * 7 + i / 251), "a broadcast");
  }
  expect(ranks.broadcast(me == 0 ? std::string("text") : std::string()) == "text", "a text");
  std::uint64_t number = static_cast<std::uint64_t>(me) + 40;
  if (me == 0) {
    for (int other = size - 1; other > 0; --other) {
      ranks.receive({reinterpret_cast<std::uint8_t*>(&number), sizeof number}, other);
      expect(number == static_cast<std::uint64_t>(other) + 40, "a message");
    }
  } else {
    ranks.send({reinterpret_cast<const std::uint8_t*>(&number), sizeof number}, 0);
  }
  ranks.barrier();
}

// States of nine windows go into a slot of rank 0's; the last rank ends in the middle, or does not go on.
void keep_states(Ranks& ranks, const std::string& mode, const std::string& folder) {
  constexpr std::int64_t kWindows = 9, kTokens = 64, kWidth = 4096;
  const auto next = [&](std::int64_t window) {
    const bool last = ranks.rank() == ranks.size() - 1 && window == 1;
    if (last && mode == "states-error") throw Error("the last one cannot go on");
    if (last && mode == "states-hang") std::this_thread::sleep_for(std::chrono::seconds(120));
    return at::full({kTokens, kWidth}, static_cast<float>(window * ranks.size() + ranks.rank()), at::kFloat);
  };
  gather_windows(ranks, {share_of(ranks, kWindows), next}, [&](const StateSource& all) {
    Journal journal = Journal::create(folder + "/journal", {{"run", "the probe's"}});
    at::Tensor state;
    std::int64_t window = 0;
    journal.write_slot(0, [&]() -> Bytes {
      if (window == all.windows) return {};
      state = all.state(window);
      expect(state.eq(static_cast<float>(window++)).all().item<bool>(), "a window's states");
      return {static_cast<const std::uint8_t*>(state.const_data_ptr()), static_cast<std::size_t>(state.nbytes())};
    });
    expect(window == kWindows, "the number of windows");
  });
}

ExitCode run(const std::string& mode, const std::string& folder, Session& session) {
  Ranks& ranks = session.ranks();
  // The tests signal processes by these.
  std::ofstream(folder + "/pid" + std::to_string(ranks.rank())) << getpid() << std::flush;
  const auto sleep = [](double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); };
  if (mode == "operations") check_operations(ranks);
  if (mode == "error" && ranks.rank() == ranks.size() - 1) throw Error("the last one cannot go on");
  if (mode == "usage") throw UsageError("all of them say so");
  if (mode == "hang") sleep(120);  // busy with its own work
  if (mode.starts_with("states")) keep_states(ranks, mode, folder);
  if (mode == "error" || mode == "wait") {
    if (ranks.rank() > 0 && mode == "wait") sleep(120);
    ranks.barrier();
  }
  session.print("ranks " + std::to_string(ranks.size()) + " good\n");
  return ExitCode::Done;
}

}  // namespace
}  // namespace miq

int main(int argc, char** argv) {
  using namespace miq;
  std::string mode, folder;
  return run_program(argc, argv,
                     {"ranks_probe", "Operations of several processes, for the tests.",
                      [&](CLI::App& app) {
                        app.add_option("mode", mode)->required();
                        app.add_option("folder", folder)->required();
                      },
                      [&](Session& session) { return run(mode, folder, session); }, "", true});
}
