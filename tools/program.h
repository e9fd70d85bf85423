// What every command shares: options --quiet, --threads, --help and --version, one place where errors become
// messages and exit codes, progress on stderr, a clean end on Ctrl-C. A command's file declares its
// options and does its work; it has no try, no exit and no error printing of its own.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "miq/base/error.h"
#include "miq/base/progress.h"
#include "miq/base/ranks.h"
#include "miq/base/thread_pool.h"
#include "miq/tools/progress_line.h"

namespace miq {

enum class ExitCode {
  Done = 0,
  Failed = 1,    // an Error, out of memory, or a fault of ours
  WrongUse = 2,  // unknown options, missing arguments, a UsageError
  Degraded = 3,  // done, but something the user should know of went wrong (a metric failed)
};

// Names and texts in messages come from files: control characters become '?', so that nothing moves the cursor, and what is
// beyond 3000 bytes is left out. Line ends stay.
std::string printable_message(std::string_view text);

// A command while it runs. Where several processes run it together, rank 0 alone speaks: the others print nothing.
class Session {
 public:
  Session(std::string name, bool quiet, int threads, Ranks& ranks = no_other_ranks());

  const std::string& name() const { return name_; }
  bool quiet() const { return quiet_; }
  // The processes that run this command together; alone unless it is Command::several and mpirun or srun started it.
  Ranks& ranks() { return ranks_; }
  // Made at the first call, with --threads threads (all usable processors by default; several processes share those of their machine).
  ThreadPool& pool();
  ProgressLine& progress() { return progress_; }

  // For libraries: draw on the progress line, and throw to unwind after Ctrl-C or SIGTERM, so that no
  // temporary file is left.
  ProgressFunction progress_function();
  // Facts of the run, one line each, on stderr; nothing with --quiet.
  MessageFunction message_function();
  // "NAME: warning: TEXT" on stderr, with --quiet too.
  void warn(const std::string& text);
  // Results, on stdout.
  void print(const std::string& text);

 private:
  std::string name_;
  bool quiet_;
  int threads_;
  Ranks& ranks_;
  std::unique_ptr<ThreadPool> pool_;
  ProgressLine progress_;
};

struct Command {
  std::string name;         // "run-eval"
  std::string description;  // the first lines of --help
  // Declares options; what they are bound to must outlive run_program(). An option named "--some-name"
  // is accepted as "--some_name" too.
  std::function<void(CLI::App& app)> declare;
  std::function<ExitCode(Session& session)> run;
  std::string footer;  // the end of --help: examples
  bool several = false;  // under mpirun or srun the processes do one run together; else each does its own
};

// The body of main(). Errors are printed as "NAME: error: MESSAGE" on stderr.
int run_program(int argc, const char* const* argv, const Command& command);

}  // namespace miq
