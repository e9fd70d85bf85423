// compare-methods by several processes: the containers and the losses of one.
#include "miq/formats/json.h"
#include "tests/ranks/mpirun.h"
#include "tests/ranks/small_files.h"

namespace miq {
namespace {

using CompareTogether = test::WithMpi;

TEST_F(CompareTogether, TwoProcessesCompareAsOneDoes) {
  test::write_model(folder_ / "dense.miq", test::small_config());
  test::write_text(folder_ / "text.txt");
  const auto compare = [&](int processes, const std::string& output, const std::string& device = "") {
    std::vector<std::string> command{MIQ_TOOLS_DIR "/compare-methods", "dense.miq", "text.txt", "-o", output, "--documents", "whole", "--nsamples", "8", "--seqlen", "64",
                                     "--dtype", "float32", "--threads", "1", "--methods", "gptq", "--run", "mixed=mixed --target-avg-bits 4", "--wbits", "4",
                                     "--eval", "own=text.txt", "--eval-seqlen", "64", "--eval-windows", "5"};
    if (!device.empty()) command.insert(command.end(), {"--device", device});
    return test::Running(folder_, processes > 1 ? test::mpirun(processes, command) : command).end(120);
  };
  const test::Ended alone = compare(1, "alone"), together = compare(2, "together");
  ASSERT_EQ(alone.status, 0) << alone.err;
  ASSERT_EQ(together.status, 0) << together.err;
  for (const char* name : {"gptq.miq", "mixed.miq"}) {
    const std::string expected = test::slurp(folder_ / "alone" / name);
    EXPECT_FALSE(expected.empty());
    EXPECT_TRUE(test::slurp(folder_ / "together" / name) == expected) << name;
  }
  const Json one = Json::parse(test::slurp(folder_ / "alone" / "report.json")), two = Json::parse(test::slurp(folder_ / "together" / "report.json"));
  ASSERT_EQ(one.at("models").size(), 3u);
  ASSERT_EQ(two.at("models").size(), 3u);
  for (std::size_t m = 0; m < 3; ++m) {
    EXPECT_EQ(one["models"][m]["name"], two["models"][m]["name"]);
    EXPECT_EQ(one["models"][m]["perplexity"], two["models"][m]["perplexity"]);
    EXPECT_FALSE(one["models"][m]["perplexity"].empty());
  }
  EXPECT_EQ(test::count_of(together.out, "| dense |"), test::count_of(alone.out, "| dense |"));  // one of them speaks
  // Where GPUs were asked for it is said which way sums go.
  setenv("CUDA_VISIBLE_DEVICES", "", 1);
  const test::Ended hostward = compare(2, "hostward", "auto");
  unsetenv("CUDA_VISIBLE_DEVICES");
  ASSERT_EQ(hostward.status, 0) << hostward.err;
  EXPECT_EQ(test::count_of(hostward.err, "sums between the processes pass through host memory: process 1: computes on the processor"), 1u) << hostward.err;
  EXPECT_TRUE(test::slurp(folder_ / "hostward" / "mixed.miq") == test::slurp(folder_ / "alone" / "mixed.miq"));
}

// A run that one process alone can do is refused before anything is computed or written, and named.
TEST_F(CompareTogether, WhatOneProcessAloneDoesIsRefusedAtOnce) {
  test::write_model(folder_ / "dense.miq", test::small_config());
  test::write_text(folder_ / "text.txt");
  const test::Ended run = test::Running(folder_, test::mpirun(2, {MIQ_TOOLS_DIR "/compare-methods", "dense.miq", "text.txt", "-o", "refused", "--documents", "whole",
                                                                  "--nsamples", "8", "--seqlen", "64", "--threads", "1",
                                                                  "--run", "plain=gptq --wbits 4", "--run", "cut=slicegpt --sparsity 0.25"})).end(120);
  EXPECT_EQ(run.status, 2) << run.err;
  EXPECT_EQ(test::count_of(run.err, "run 'cut': slicegpt, structured, --tune and --channel-scaling run in one process"), 1u) << run.err;
  EXPECT_FALSE(std::filesystem::exists(folder_ / "refused"));
}

}  // namespace
}  // namespace miq
