// Runs that are killed with SIGKILL at any moment and resumed must give the bytes of a run that was left alone; Ctrl-C
// leaves a journal and says how to go on.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <thread>

#include "miq/model/model.h"
#include "tests/model/small_model.h"
#include "tests/tools/byte_tokenizer.h"

namespace miq {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

std::string slurp(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class Resume : public testing::Test {
 protected:
  void SetUp() override {
    work_ = fs::path(testing::TempDir()) / ("miq_resume_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(work_);
    fs::create_directories(work_);
    Config config;
    config.architecture = "llama";
    config.vocabulary = 256;
    config.hidden = 96;
    config.max_positions = 128;
    config.layers.assign(6, {4, 2, 24, 160});
    config.tied_head = true;
    Model model = test::small_model(config, DType::BF16, 1, 0.8f).model;
    const std::string tokenizer = test::byte_tokenizer();
    model.files.emplace("tokenizer.json", Blob(std::string_view(tokenizer)));
    model.tokenizer = load_tokenizer(model.files, "the test");
    save_model(model, (work_ / "dense.miq").string());
    std::ofstream text(work_ / "text.txt");
    for (int i = 0; i < 2000; ++i) text << "Sentence number " << i * i << " says little, but says it well.\n";
  }
  void TearDown() override { fs::remove_all(work_); }

  // Starts miq-compress in the folder; nothing of its output is shown.
  pid_t start(const std::string& output, std::vector<std::string> more) const {
    std::vector<std::string> arguments{MIQ_TOOLS_DIR "/miq-compress", "dense.miq", "text.txt", "-o", output, "--documents", "whole", "--nsamples", "48", "--seqlen", "96",
                                       "--dtype", "float32", "--threads", "2"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const std::string out = (work_ / "out.txt").string(), err = (work_ / "err.txt").string(), folder = work_.string();
    const pid_t child = fork();
    if (child == 0) {
      const bool ready = chdir(folder.c_str()) == 0 && dup2(open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666), 1) == 1 &&
                         dup2(open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666), 2) == 2;
      if (ready) execv(argv[0], argv.data());
      _exit(127);
    }
    return child;
  }
  // The status, or nothing when it still ran after `patience` and was sent `signal`.
  static std::optional<int> end_of(pid_t child, double patience, int signal) {
    const auto start = Clock::now();
    int status = 0;
    while (waitpid(child, &status, WNOHANG) == 0) {
      if (std::chrono::duration<double>(Clock::now() - start).count() > patience) {
        kill(child, signal);
        waitpid(child, &status, 0);
        if (WIFSIGNALED(status)) return std::nullopt;
        break;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  fs::path work_;
};

TEST_F(Resume, KilledAtAnyMomentItGivesTheSameBytes) {
  const std::vector<std::string> method{"--method", "mi", "--wbits", "4", "--sparsity", "0.4", "--group-size", "32"};
  const auto started = Clock::now();
  ASSERT_EQ(end_of(start("whole.miq", method), 600, SIGKILL), 0) << slurp(work_ / "err.txt");
  const double whole = std::chrono::duration<double>(Clock::now() - started).count();
  const std::string expected = slurp(work_ / "whole.miq");
  EXPECT_FALSE(fs::exists(work_ / "whole.miq.journal"));

  std::vector<std::string> resume = method;
  resume.push_back("--resume");
  std::mt19937 random(5);
  int kills = 0, finished = 0;
  for (int attempt = 0; attempt < 40 && kills < 12; ++attempt) {
    const double patience = whole * static_cast<double>(random() % 1000) / 1000;
    const auto code = end_of(start("killed.miq", resume), patience, SIGKILL);
    if (!code) {
      ++kills;
      // What lies under the final name is whole at any moment.
      if (fs::exists(work_ / "killed.miq")) {
        EXPECT_TRUE(slurp(work_ / "killed.miq") == expected);
      }
      continue;
    }
    ASSERT_EQ(*code, 0) << slurp(work_ / "err.txt");
    ++finished;
    EXPECT_TRUE(slurp(work_ / "killed.miq") == expected);
    EXPECT_FALSE(fs::exists(work_ / "killed.miq.journal"));
    fs::remove(work_ / "killed.miq");
  }
  ASSERT_EQ(end_of(start("killed.miq", resume), 600, SIGKILL), 0) << slurp(work_ / "err.txt");
  EXPECT_TRUE(slurp(work_ / "killed.miq") == expected) << "after " << kills << " kills, " << finished << " runs finished between";
  EXPECT_GE(kills, 8);
  for (const auto& entry : fs::directory_iterator(work_)) EXPECT_FALSE(entry.path().filename().string().ends_with(".tmp")) << entry.path();
}

TEST_F(Resume, AnInterruptedRunSaysHowToGoOn) {
  const std::vector<std::string> method{"--method", "sparsegpt", "--sparsity", "0.5"};
  const pid_t child = start("out.miq", method);
  const fs::path log = work_ / "out.miq.journal" / "log";
  // Until the first layer is in the journal.
  for (int i = 0; i < 60'000 && !(fs::exists(log) && fs::file_size(log) > 20'000); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const auto code = end_of(child, 0, SIGTERM);
  if (code == 0) GTEST_SKIP() << "the run was over before it could be interrupted";
  EXPECT_EQ(code, 1);
  const std::string said = slurp(work_ / "err.txt");
  EXPECT_NE(said.find("--resume"), std::string::npos) << said;
  EXPECT_NE(said.find("interrupted"), std::string::npos) << said;
  EXPECT_FALSE(fs::exists(work_ / "out.miq"));

  // Without --resume it is not overwritten; another recipe does not take it up.
  EXPECT_EQ(end_of(start("out.miq", method), 600, SIGKILL), 1);
  EXPECT_NE(slurp(work_ / "err.txt").find("--resume"), std::string::npos);
  EXPECT_EQ(end_of(start("out.miq", {"--method", "sparsegpt", "--sparsity", "0.6", "--resume"}), 600, SIGKILL), 1);
  EXPECT_NE(slurp(work_ / "err.txt").find("sparsity was 0.5 and is 0.6"), std::string::npos) << slurp(work_ / "err.txt");
  EXPECT_EQ(end_of(start("out.miq", {"--method", "sparsegpt", "--sparsity", "0.5", "--resume"}), 600, SIGKILL), 0);
  ASSERT_EQ(end_of(start("whole.miq", {"--method", "sparsegpt", "--sparsity", "0.5", "--no-journal"}), 600, SIGKILL), 0);
  EXPECT_TRUE(slurp(work_ / "out.miq") == slurp(work_ / "whole.miq"));
}

TEST_F(Resume, ADryRunPrintsThePlanAndDoesNothing) {
  ASSERT_EQ(end_of(start("out.miq", {"--method", "sparsegpt", "--wbits", "4", "--dry-run"}), 600, SIGKILL), 0) << slurp(work_ / "err.txt");
  const std::string plan = slurp(work_ / "out.txt");
  for (const char* part : {"memory ", "output ", "journal ", "time "}) EXPECT_NE(plan.find(part), std::string::npos) << plan;
  EXPECT_EQ(slurp(work_ / "err.txt"), "");
  EXPECT_FALSE(fs::exists(work_ / "out.miq"));
  EXPECT_FALSE(fs::exists(work_ / "out.miq.journal"));
}

}  // namespace
}  // namespace miq
