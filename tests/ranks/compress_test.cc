// miq-compress by several processes: the very file that one writes, also after runs that are killed and go on with another number of processes.
#include <algorithm>
#include <initializer_list>

#include "miq/compress/compress.h"
#include "tests/ranks/mpirun.h"
#include "tests/ranks/small_files.h"

namespace miq {
namespace {

namespace fs = std::filesystem;
using test::Ended;
using test::Running;

class CompressTogether : public test::WithMpi {
 protected:
  void SetUp() override {
    test::WithMpi::SetUp();
    if (IsSkipped()) return;
    trained_ = fs::exists(kStory) && fs::exists(kTinyStories);
    test::write_model(folder_ / "dense.miq", test::small_config());
    test::write_text(folder_ / "text.txt");
  }
  static constexpr const char* kStory = MIQ_SOURCE_DIR "/../shared/data/models/story";
  static constexpr const char* kTinyStories = MIQ_SOURCE_DIR "/../shared/data/tinystories/tiny.utf8";
  std::vector<std::string> command(const std::string& output, const std::vector<std::string>& more) const {
    std::vector<std::string> all{MIQ_TOOLS_DIR "/miq-compress", model_, text_, "-o", output, "--documents", "whole", "--nsamples", std::to_string(windows_), "--seqlen", "96",
                                 "--threads", "1"};
    all.insert(all.end(), more.begin(), more.end());
    if (std::find(more.begin(), more.end(), "--dtype") == more.end()) all.insert(all.end(), {"--dtype", "float32"});
    return all;
  }
  Ended compress(int processes, const std::string& output, const std::vector<std::string>& more) {
    const auto alone = command(output, more);
    return Running(folder_, processes > 0 ? test::mpirun(processes, alone) : alone).end(120);
  }
  void use_trained() {
    model_ = kStory;
    text_ = kTinyStories;
  }
  std::string model_ = "dense.miq", text_ = "text.txt";
  bool trained_ = false;
  int windows_ = 24;
  // One process, then each of these numbers of them: all write the same file.
  void expect_file_of_one(const std::string& name, const std::vector<std::string>& options, std::initializer_list<int> numbers) {
    SCOPED_TRACE(name);
    const Ended alone = compress(0, "alone.miq", options);
    ASSERT_EQ(alone.status, 0) << alone.err;
    for (const int processes : numbers) expect_same(processes, options);
    fs::remove(folder_ / "alone.miq");
  }
  // The file of `processes` is that of one.
  void expect_same(int processes, const std::vector<std::string>& options) {
    const Ended ended = compress(processes, "together.miq", options);
    ASSERT_EQ(ended.status, 0) << ended.err;
    expect_equal("alone.miq", "together.miq");
    fs::remove(folder_ / "together.miq");
  }
  void expect_equal(const std::string& a, const std::string& b) const {
    const std::string first = test::slurp(folder_ / a), second = test::slurp(folder_ / b);
    ASSERT_FALSE(first.empty());
    if (first == second) return;
    const Model one = load_model((folder_ / a).string()), other = load_model((folder_ / b).string());
    std::string differ;
    for (const auto& [name, tensor] : one.tensors) {
      if (!to_torch(tensor, name, at::kFloat).equal(to_torch(other.tensors.at(name), name, at::kFloat))) differ += " " + name;
    }
    FAIL() << "other files; weights differ in:" << differ << (one.statistics == other.statistics ? "" : "; other statistics");
  }
};

using Options = std::vector<std::string>;
const std::pair<const char*, Options> kMethods[] = {
    {"gptq", {"--method", "gptq", "--wbits", "4", "--group-size", "32"}},
    {"staged", {"--method", "gptq", "--wbits", "4", "--true-sequential"}},
    {"sparsegpt", {"--method", "sparsegpt", "--sparsity", "0.5", "--wbits", "4", "--group-size", "32"}},
    {"wanda", {"--method", "wanda", "--sparsity", "0.5"}},
    {"enhanced", {"--method", "enhanced", "--target-avg-bits", "4"}},
    {"mi", {"--method", "mi", "--target-avg-bits", "4", "--sparsity", "0.3", "--group-size", "32"}},
    {"mi, binned", {"--method", "mi", "--mi-estimator", "binned", "--target-avg-bits", "4", "--group-size", "32"}},
    {"mixed", {"--method", "mixed", "--target-avg-bits", "4", "--group-size", "32"}},
    {"mixed, staged, with zeros", {"--method", "mixed", "--target-avg-bits", "4", "--sparsity", "0.3", "--true-sequential", "--group-size", "32"}},
};

// A model of noise, where many choices are nearly equal: any difference in a sum would show.
TEST_F(CompressTogether, TwoAndFourProcessesWriteTheFileOfOne) {
  for (const auto& [name, options] : kMethods) expect_file_of_one(name, options, {2, 4});
}

TEST_F(CompressTogether, AMixtureOfExpertsToo) {
  Config config = test::small_config("mixtral");
  for (LayerConfig& layer : config.layers) layer.experts = 5, layer.mlp_width = 64;
  config.experts_per_token = 2;
  test::write_model(folder_ / "dense.miq", config);
  for (std::size_t m : {2, 6, 8}) expect_file_of_one(kMethods[m].first, kMethods[m].second, {2, 3});
}

// More processes than inputs in a layer: single matrices go to processes. And a trained model, in bfloat16.
TEST_F(CompressTogether, SixProcessesAndATrainedModel) {
  const Options options{"--method", "mi", "--target-avg-bits", "4", "--sparsity", "0.3", "--group-size", "32"};
  expect_file_of_one("mi", options, {6});
  if (!trained_) return;
  use_trained();
  const Options narrow{"--method", "mixed", "--target-avg-bits", "4", "--group-size", "32", "--dtype", "bfloat16"};
  expect_file_of_one("trained", narrow, {2, 4});
}

TEST_F(CompressTogether, AKilledRunGoesOnWithAnyNumberOfProcesses) {
  if (!trained_) GTEST_SKIP() << "no trained model in ../shared/data";
  use_trained();
  const std::vector<std::string> options{"--method", "mi", "--target-avg-bits", "4", "--group-size", "32"};
  ASSERT_EQ(compress(0, "alone.miq", options).status, 0);
  std::vector<std::string> resume = options;
  resume.push_back("--resume");
  const fs::path journal = folder_ / "run.miq.journal";
  int processes = 2, interrupted = 0;
  // Killed whenever the journal has grown, then taken up by another number of processes.
  for (int round = 0; round < 3 && !fs::exists(folder_ / "run.miq"); ++round, processes = processes == 2 ? 1 : 2) {
    std::vector<std::string> run = command("run.miq", round == 0 ? options : resume);
    Running running(folder_, processes > 1 ? test::mpirun(processes, run) : run);
    const auto size = [&] {
      std::uintmax_t bytes = 0;
      std::error_code ignored;
      if (fs::exists(journal)) {
        for (const auto& entry : fs::directory_iterator(journal, ignored)) bytes += fs::file_size(entry.path(), ignored);
      }
      return bytes;
    };
    const std::uintmax_t before = size();
    while (running.running() && size() <= before + 1000) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    interrupted += running.running();
    running.stop(SIGINT);
  }
  EXPECT_GT(interrupted, 0);
  if (!fs::exists(folder_ / "run.miq")) {
    const Ended last = compress(processes, "run.miq", resume);
    ASSERT_EQ(last.status, 0) << last.err;
  }
  expect_equal("alone.miq", "run.miq");
  EXPECT_FALSE(fs::exists(journal));
}

TEST_F(CompressTogether, MoreProcessesThanWindowsAreRefusedOnce) {
  windows_ = 3;
  const Ended ended = compress(4, "few.miq", {"--method", "gptq", "--wbits", "4"});
  EXPECT_EQ(ended.status, 2);
  EXPECT_EQ(test::count_of(ended.err, "4 processes for 3 calibration windows"), 1u) << ended.err;
  EXPECT_FALSE(fs::exists(folder_ / "few.miq"));
}

}  // namespace
}  // namespace miq
