// Runs the fuzz targets without a fuzzer: over the seeds and over kept inputs. A target that is wrong aborts; the last line
// says for which input.
//   fuzz_replay [FOLDER…]             FOLDER/TARGET/* are inputs, FOLDER/TARGET.pack many of them in one file
//   fuzz_replay --seeds FOLDER        writes the seeds to FOLDER/TARGET/
//   fuzz_replay --pack FOLDER FILE    writes the files of a folder into one, sorted by name
//   fuzz_replay --unpack FILE FOLDER  the other way round
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "tests/fuzz/seeds.h"

#define TARGET(name) extern "C" int fuzz_##name(const std::uint8_t* data, std::size_t size);
#include "targets.inc"
#undef TARGET

namespace {

namespace fs = std::filesystem;

struct Target {
  const char* name;
  int (*run)(const std::uint8_t*, std::size_t);
};
#define TARGET(name) {#name, fuzz_##name},
constexpr Target kTargets[] = {
#include "targets.inc"
};
#undef TARGET

std::string slurp(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<fs::path> files_of(const fs::path& folder) {
  std::vector<fs::path> files;
  if (fs::is_directory(folder)) {
    for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Each input with its length, 4 bytes little-endian, in front.
std::vector<std::string> unpacked(const std::string& pack) {
  std::vector<std::string> inputs;
  for (std::size_t at = 0; at + 4 <= pack.size();) {
    std::uint32_t size = 0;
    std::memcpy(&size, &pack[at], 4);
    inputs.push_back(pack.substr(at + 4, size));
    at += 4 + size;
  }
  return inputs;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const auto seeds = miq::test::fuzz_seeds();
  if (arguments.size() == 2 && arguments[0] == "--seeds") {
    for (const auto& [target, inputs] : seeds) {
      fs::create_directories(fs::path(arguments[1]) / target);
      for (std::size_t i = 0; i < inputs.size(); ++i) std::ofstream(fs::path(arguments[1]) / target / ("seed" + std::to_string(i)), std::ios::binary) << inputs[i];
    }
    return 0;
  }
  if (arguments.size() == 3 && arguments[0] == "--pack") {
    std::ofstream pack(arguments[2], std::ios::binary);
    for (const fs::path& path : files_of(arguments[1])) {
      const std::string input = slurp(path);
      const auto size = static_cast<std::uint32_t>(input.size());
      pack.write(reinterpret_cast<const char*>(&size), 4);
      pack << input;
    }
    return pack.flush() ? 0 : 1;
  }
  if (arguments.size() == 3 && arguments[0] == "--unpack") {
    fs::create_directories(arguments[2]);
    std::size_t count = 0;
    for (const std::string& input : unpacked(slurp(arguments[1]))) std::ofstream(fs::path(arguments[2]) / ("kept" + std::to_string(count++)), std::ios::binary) << input;
    return 0;
  }
  for (const Target& target : kTargets) {
    std::size_t count = 0;
    const auto run = [&](const std::string& from, const std::string& input) {
      std::fprintf(stderr, "\r%s: %s", target.name, from.c_str());
      // On the heap and of exactly this size, so that a read beyond it is seen by the address sanitizer.
      const std::vector<std::uint8_t> bytes(input.begin(), input.end());
      target.run(bytes.data(), bytes.size());
      ++count;
    };
    if (!seeds.contains(target.name)) return std::fprintf(stderr, "%s: there are no seeds\n", target.name), 1;
    for (const std::string& input : seeds.at(target.name)) run("seed", input);
    for (const std::string& folder : arguments) {
      for (const fs::path& path : files_of(fs::path(folder) / target.name)) run(path.string(), slurp(path));
      const fs::path pack = fs::path(folder) / (std::string(target.name) + ".pack");
      if (fs::exists(pack)) {
        for (const std::string& input : unpacked(slurp(pack))) run(pack.string() + " number " + std::to_string(count), input);
      }
    }
    std::fprintf(stderr, "\r\033[K%s: %zu inputs\n", target.name, count);
  }
  return 0;
}
