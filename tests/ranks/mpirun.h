// Starts programs under mpirun, as root and on fewer cores than processes too.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace miq::test {

namespace fs = std::filesystem;

inline std::string slurp(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Ended {
  int status = 0;  // exit code, or 128 + signal
  double seconds = 0;
  std::string out, err;
};

// A command that runs while the test goes on.
class Running {
 public:
  Running(const fs::path& folder, std::vector<std::string> arguments) : folder_(folder), started_(std::chrono::steady_clock::now()) {
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const std::string out = (folder / "out.txt").string(), err = (folder / "err.txt").string(), where = folder.string();
    child_ = fork();
    if (child_ == 0) {
      setpgid(0, 0);
      const bool ready = chdir(where.c_str()) == 0 && dup2(open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666), 1) == 1 &&
                         dup2(open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666), 2) == 2 && dup2(open("/dev/null", O_RDONLY), 0) == 0;
      if (ready) execvp(argv[0], argv.data());
      _exit(127);
    }
  }
  ~Running() {
    if (running()) end(0);
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count(); }
  bool running() {
    if (child_ > 0 && waitpid(child_, &status_, WNOHANG) == child_) child_ = 0;
    return child_ > 0;
  }
  // Asks it to end, and its processes with it.
  void stop(int signal) {
    if (running()) kill(child_, signal);
    end(20);
  }
  // Kills it after `patience` seconds more.
  Ended end(double patience) {
    const double last = seconds() + patience;
    while (running()) {
      if (seconds() > last) {
        kill(-child_, SIGTERM);  // mpirun takes its processes with it
        for (int tries = 0; tries < 250 && running(); ++tries) std::this_thread::sleep_for(std::chrono::milliseconds(20));
        if (child_ == 0) break;
        kill(-child_, SIGKILL);
        waitpid(child_, &status_, 0);
        child_ = 0;
        break;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return {WIFSIGNALED(status_) ? 128 + WTERMSIG(status_) : WEXITSTATUS(status_), seconds(), slurp(folder_ / "out.txt"), slurp(folder_ / "err.txt")};
  }

 private:
  fs::path folder_;
  std::chrono::steady_clock::time_point started_;
  pid_t child_ = 0;
  int status_ = 0;
};

inline std::vector<std::string> mpirun(int processes, std::vector<std::string> command) {
  std::vector<std::string> all{MIQ_MPIRUN, "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", std::to_string(processes)};
  all.insert(all.end(), command.begin(), command.end());
  return all;
}

inline std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

class WithMpi : public testing::Test {
 protected:
  void SetUp() override {
    if (!MIQ_WITH_MPI) GTEST_SKIP() << "built without MPI, or without mpirun (Debian: libopenmpi-dev openmpi-bin)";
    folder_ = fs::path(testing::TempDir()) / ("miq_ranks_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override {
    if (!folder_.empty()) fs::remove_all(folder_);
  }
  pid_t process(int rank) const {
    const fs::path file = folder_ / ("pid" + std::to_string(rank));
    for (int tries = 0; tries < 1000 && (!fs::exists(file) || fs::file_size(file) == 0); ++tries) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const long found = std::atol(slurp(file).c_str());
    if (found <= 1) throw std::runtime_error("process " + std::to_string(rank) + " did not start");  // kill(0) would be us
    return static_cast<pid_t>(found);
  }
  fs::path folder_;
};

}  // namespace miq::test
