// The catch site of the suite. Signals only set a flag; the next progress report throws Interrupted, so
// destructors run and temporary files go. A second signal ends the program at once.
#include "miq/tools/program.h"

#include <c10/util/Exception.h>
#include <torch/version.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include "miq/base/version.h"
#include "miq/model/forward.h"
#include "miq/tools/launch.h"

namespace miq {
namespace {

constexpr std::size_t kLongestMessage = 3000;

volatile std::sig_atomic_t signal_received = 0;

extern "C" void remember_signal(int number) { signal_received = number; }

// No Error: what catches those to go on, such as a metric that fails alone, must not catch this.
class Interrupted : public std::runtime_error {
 public:
  Interrupted() : std::runtime_error("interrupted; no unfinished output was left behind") {}
};

void install_signal_handlers() {
  for (int number : {SIGINT, SIGTERM}) {
    struct sigaction action {};
    action.sa_handler = remember_signal;
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, nullptr);
  }
}

// The earlier scripts spell options with underscores: --model_path is --model-path unless the command
// knows the spelling itself. CLI11 wants the arguments in reverse.
std::vector<std::string> normalised_arguments(int argc, const char* const* argv, const CLI::App& app) {
  std::vector<std::string> arguments;
  bool options_ended = false;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    options_ended |= argument == "--";
    if (!options_ended && argument.rfind("--", 0) == 0) {
      const std::size_t end = std::min(argument.find('='), argument.size());
      std::string dashed = argument.substr(0, end);
      for (char& c : dashed) c = c == '_' ? '-' : c;
      if (app.get_option_no_throw(argument.substr(0, end)) == nullptr && app.get_option_no_throw(dashed) != nullptr) {
        argument = dashed + argument.substr(end);
      }
    }
    arguments.insert(arguments.begin(), std::move(argument));
  }
  return arguments;
}

int report(const std::string& name, const std::string& message, int code) {
  std::fprintf(stderr, "%s: error: %s\n", name.c_str(), printable_message(message).c_str());
  return code;
}

int report(const std::string& name, const std::string& message, ExitCode code) { return report(name, message, static_cast<int>(code)); }

std::string version_text() { return std::string("miq ") + miq::version() + "\ntorch " TORCH_VERSION "\n"; }

// What a wait for other processes, and every progress report, looks for.
void check_interrupt() {
  if (signal_received != 0) throw Interrupted();
}

int run_checked(int argc, const char* const* argv, const Command& command, Ranks& ranks) {
  CLI::App app(command.description, command.name);
  bool quiet = false;
  int threads = 0;
  command.declare(app);
  app.add_flag("-q,--quiet", quiet, "no progress and no messages, only results and errors");
  app.add_option("--threads", threads, "number of threads; all usable processors by default")->check(CLI::Range(1, 1024));
  app.set_version_flag("--version", version_text(), "print the version and end");
  app.set_help_flag("-h,--help", "print this help and end");
  app.footer(command.footer);
  try {
    app.parse(normalised_arguments(argc, argv, app));
  } catch (const CLI::CallForHelp&) {
    if (ranks.first()) std::fputs(app.help().c_str(), stdout);
    return 0;
  } catch (const CLI::CallForVersion& version) {
    if (ranks.first()) std::fputs(version.what(), stdout);
    return 0;
  } catch (const CLI::ParseError& error) {
    throw UsageError(std::string(error.what()) + ". " + command.name + " --help lists the options");
  }
  install_signal_handlers();
  use_single_threaded_torch();
  Session session(command.name, quiet, threads, ranks);
  return static_cast<int>(command.run(session));
}

}  // namespace

std::string printable_message(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < std::min(text.size(), kLongestMessage); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    // 0xC2 0x80 to 0xC2 0x9F are control characters too; 0xC2 may also be cut off at the end.
    const bool wide_control = byte == 0xC2 && (i + 1 == text.size() || static_cast<unsigned char>(text[i + 1]) < 0xA0);
    if (wide_control) ++i;
    result += wide_control || (byte < 0x20 && byte != '\n') || byte == 0x7F ? '?' : text[i];
  }
  if (text.size() > kLongestMessage) {
    while (!result.empty() && (static_cast<unsigned char>(result.back()) & 0xC0) == 0x80) result.pop_back();
    if (!result.empty() && static_cast<unsigned char>(result.back()) >= 0xC0) result.pop_back();
    result += "... (" + std::to_string(text.size()) + " bytes)";
  }
  return result;
}

Session::Session(std::string name, bool quiet, int threads, Ranks& ranks)
    : name_(std::move(name)), quiet_(quiet || !ranks.first()), threads_(threads), ranks_(ranks), progress_(!quiet_) {
  if (threads_ == 0 && !ranks.alone()) threads_ = threads_of_share(ranks.local_size());
}

ThreadPool& Session::pool() {
  if (!pool_) pool_ = std::make_unique<ThreadPool>(threads_);
  return *pool_;
}

ProgressFunction Session::progress_function() {
  return [this](const Progress& progress) {
    check_interrupt();
    progress_.show(progress);
  };
}

MessageFunction Session::message_function() {
  return [this](const std::string& text) { progress_.message(text); };
}

void Session::warn(const std::string& text) {
  if (!ranks_.first()) return;
  progress_.clear();
  std::fprintf(stderr, "%s: warning: %s\n", name_.c_str(), printable_message(text).c_str());
}

void Session::print(const std::string& text) {
  if (!ranks_.first()) return;
  progress_.clear();
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

int run_program(int argc, const char* const* argv, const Command& command) {
  std::unique_ptr<LibraryRanks> ranks;
  // Of several processes one speaks, and all end.
  const auto fail = [&](const std::string& message, int code) {
    if (ranks) ranks->fail(message, code);
    return report(command.name, message, code);
  };
  try {
    if (command.several) {
      RanksOptions options;
      options.lost = [&command](const std::string& message) { report(command.name, message, ExitCode::Failed); };
      options.waiting = check_interrupt;
      ranks = join_launched(std::move(options));
    }
    const int code = run_checked(argc, argv, command, ranks ? *ranks : no_other_ranks());
    if (!ranks) return code;
    ranks->leave();
    return ranks->first() ? code : 0;  // rank 0 speaks for all
  } catch (const Error& error) {
    return fail(error.what(), error.exit_code());
  } catch (const std::bad_alloc&) {
    return fail("out of memory. Use fewer or shorter windows, or a machine with more memory", static_cast<int>(ExitCode::Failed));
  } catch (const c10::Error& error) {
    return fail(std::string("a LibTorch operation failed: ") + error.what_without_backtrace(), static_cast<int>(ExitCode::Failed));
  } catch (const std::exception& error) {
    return fail(error.what(), static_cast<int>(ExitCode::Failed));
  }
}

}  // namespace miq
