// miq-compress by several processes: models that are the same but for ties, and runs that are killed and go on with another number of processes.
//
// Sums differ in the last bits. Methods that choose (which weights go, which channels form groups) turn that into other choices where all are
// equally good, as in a model of noise; there only methods that do not choose are held to the bound, the others on a trained model.
#include <cmath>
#include <map>

#include "miq/compress/compress.h"
#include "miq/formats/json.h"
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
                                 "--dtype", "float32", "--threads", "1"};
    all.insert(all.end(), more.begin(), more.end());
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
  // Share of the weights that decode to the same number, and the largest relative difference of a linear's recorded error.
  struct Agreement {
    double same = 0, error = 0;
  };
  Agreement compare(const std::string& a, const std::string& b) const {
    const Model first = load_model((folder_ / a).string()), second = load_model((folder_ / b).string());
    Agreement agreement;
    double weights = 0;
    for (const auto& [name, tensor] : first.tensors) {
      if (tensor.encoding != Encoding::Packed && tensor.shape.size() < 2) continue;
      const at::Tensor x = to_torch(tensor, name, at::kFloat), y = to_torch(second.tensors.at(name), name, at::kFloat);
      const float* p = x.const_data_ptr<float>();
      const float* q = y.const_data_ptr<float>();
      for (std::int64_t i = 0; i < x.numel(); ++i, ++weights) agreement.same += p[i] == q[i] || std::abs(p[i] - q[i]) <= 1e-3f * std::abs(p[i]);
    }
    agreement.same /= weights;
    const auto errors = [](const Model& model) {
      std::map<std::string, double> found;
      for (const Json& layer : model.statistics.at("matrices")) found[layer.at("name")] = layer.at("error");
      return found;
    };
    const auto expected = errors(first), got = errors(second);
    EXPECT_EQ(expected.size(), got.size());
    for (const auto& [name, error] : expected) agreement.error = std::max(agreement.error, std::abs(got.at(name) - error) / error);
    return agreement;
  }
};

TEST_F(CompressTogether, TwoAndFourProcessesMakeTheModelOfOne) {
  struct Case {
    std::string name;
    bool trained;
    std::vector<int> processes;
    std::vector<std::string> options;
  };
  std::vector<Case> cases{
      {"staged", false, {2}, {"--method", "gptq", "--wbits", "4", "--true-sequential"}},
      {"wanda", false, {2, 4}, {"--method", "wanda", "--sparsity", "0.5"}},
  };
  if (trained_) {
    cases.push_back({"sparsegpt", true, {2, 4}, {"--method", "sparsegpt", "--sparsity", "0.5", "--wbits", "4", "--group-size", "32"}});
    cases.push_back({"mi", true, {2, 4}, {"--method", "mi", "--target-avg-bits", "4", "--sparsity", "0.3", "--group-size", "32"}});
  }
  for (const auto& [name, trained, counts, options] : cases) {
    SCOPED_TRACE(name);
    if (trained) use_trained();
    const Ended alone = compress(0, "alone.miq", options);
    ASSERT_EQ(alone.status, 0) << alone.err;
    for (int processes : counts) {
      const Ended ended = compress(processes, "together.miq", options);
      ASSERT_EQ(ended.status, 0) << ended.err;
      const Agreement agreement = compare("alone.miq", "together.miq");
      std::printf("%s, %d processes: %.4f %% of the weights the same, errors within %.1e\n", name.c_str(), processes, 100 * agreement.same, agreement.error);
      EXPECT_GT(agreement.same, 0.99);
      EXPECT_LT(agreement.error, 1e-3);
      fs::remove(folder_ / "together.miq");
    }
    fs::remove(folder_ / "alone.miq");
  }
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
  const Agreement agreement = compare("alone.miq", "run.miq");
  EXPECT_GT(agreement.same, 0.99);
  EXPECT_LT(agreement.error, 1e-3);
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
