// The commands that read foreign files, many runs by one process: loading LibTorch takes longer than refusing a file.
// Each run is a child of its own, forked before anything is done, that calls the command's own main().
//
//   zoo_commands    reads requests from stdin, a line each: COMMAND 0x1f FOLDER 0x1f SECONDS 0x1f ADDRESS_SPACE 0x1f ARGUMENT ...
//                   and answers each on stdout: PID STATUS MAXRSS, as wait4 gives them (MAXRSS in bytes)
//
// A child works in FOLDER, with its output in the files stdout and stderr there, and SIGALRM ends it after SECONDS.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

int inspect_main(int count, char** words);  // main() of tools/inspect-checkpoint.cc and tools/convert-checkpoint.cc
int convert_main(int count, char** words);

namespace {

std::vector<std::string> split(const std::string& line) {
  std::vector<std::string> words;
  for (std::size_t from = 0; from <= line.size();) {
    const std::size_t end = std::min(line.find('\x1f', from), line.size());
    words.push_back(line.substr(from, end - from));
    from = end + 1;
  }
  return words;
}

void redirect(const char* path, int flags, int target) {
  const int file = open(path, flags, 0666);
  if (file < 0 || dup2(file, target) < 0) _exit(120);
  if (file != target) close(file);
}

[[noreturn]] void run(std::vector<std::string> words) {
  if (chdir(words[1].c_str()) != 0) _exit(121);
  redirect("/dev/null", O_RDONLY, 0);
  redirect("stdout", O_WRONLY | O_CREAT | O_TRUNC, 1);
  redirect("stderr", O_WRONLY | O_CREAT | O_TRUNC, 2);
  const rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
  if (const rlim_t bytes = std::stoull(words[3]); bytes != 0) {
    const rlimit limit{bytes, bytes};
    setrlimit(RLIMIT_AS, &limit);
  }
  alarm(static_cast<unsigned>(std::stoul(words[2])));
  std::vector<char*> arguments;
  words[3] = words[0];
  for (std::size_t i = 3; i < words.size(); ++i) arguments.push_back(words[i].data());
  arguments.push_back(nullptr);
  const int count = static_cast<int>(arguments.size()) - 1;
  const int code = words[0] == "inspect-checkpoint" ? inspect_main(count, arguments.data()) : convert_main(count, arguments.data());
  std::cout.flush();
  std::cerr.flush();
  std::fflush(nullptr);
  _exit(code);  // LibTorch takes a tenth of a second to take itself down
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    auto words = split(line);
    if (words.size() < 5) return 2;
    const pid_t child = fork();
    if (child == 0) run(std::move(words));
    int status = 0;
    rusage usage{};
    if (child < 0 || wait4(child, &status, 0, &usage) < 0) return 1;
    std::cout << child << ' ' << status << ' ' << usage.ru_maxrss * 1024 << std::endl;
  }
}
