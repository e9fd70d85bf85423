// Running a command as a user would, for tests of the commands.
#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace miq::test {

struct Outcome {
  int code = -1;  // -1: ended by a signal
  std::string out, err;
};

inline std::string slurp(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_text(const std::filesystem::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

// A line of a shell that begins with a program's name, in `folder`; results are kept in its folder `cache`, what is printed in out.txt and err.txt.
inline Outcome run_command(const std::filesystem::path& folder, const std::string& command) {
  const std::string line = "cd '" + folder.string() + "' && XDG_CACHE_HOME='" + (folder / "cache").string() + "' '" MIQ_TOOLS_DIR "'/" + command + " >out.txt 2>err.txt </dev/null";
  const int status = std::system(line.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, slurp(folder / "out.txt"), slurp(folder / "err.txt")};
}

}  // namespace miq::test
