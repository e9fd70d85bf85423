// The commands that read foreign files, many runs by one process: loading LibTorch takes longer than refusing a file.
// Each run is a child of its own, forked before anything is done, that calls the command's own main().
//
// Besides, "dump-tensors FILE DATA" is the readers of safetensors and GGUF files alone: metadata and places as JSON on
// stdout, the tensors' bytes one after another in DATA; and "read-torch-file FILE" is the reader of PyTorch files alone: it
// opens FILE, verifies it, reads every tensor, turns the tree into JSON, and prints every global with its risk.
//
//   zoo_commands    reads requests from stdin, a line each: COMMAND 0x1f FOLDER 0x1f SECONDS 0x1f ADDRESS_SPACE 0x1f ARGUMENT ...
//                   and answers each on stdout: PID STATUS MAXRSS, as wait4 gives them (MAXRSS in bytes)
//
// A child works in FOLDER, with its output in the files stdout and stderr there, and SIGALRM ends it after SECONDS.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "miq/formats/gguf.h"
#include "miq/formats/pickle_globals.h"
#include "miq/formats/pickle_objects.h"
#include "miq/formats/safetensors.h"
#include "miq/formats/torch_file.h"
#include "miq/tools/program.h"

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

void describe(const std::string& path, miq::Session& session) {
  using namespace miq;
  const TorchFile file = open_torch_file(path);
  file.verify();
  std::uint64_t tensors = 0, bytes = 0;
  for (NodeId node = 0; node < file.tree().size(); ++node) {
    if (const auto tensor = file.tensor(node)) {
      ++tensors;
      bytes += decode(file.read(*tensor, "tensor"), "tensor").size();
    }
  }
  std::string text = std::to_string(tensors) + " tensors of " + std::to_string(bytes) + " bytes\n";
  for (const PickleGlobal& global : file.tree().globals()) {
    text += printable_message(global.full_name() + ": " + std::string(risk_name(global_risk(global.module, global.name))) + ", called " +
                              std::to_string(global.called) + ", instantiated " + std::to_string(global.instantiated)) + "\n";
  }
  session.print(text + to_json(file.tree(), file.root()).dump().substr(0, 2000) + "\n");
}

std::string hexadecimal(std::string_view text) {
  std::string result;
  for (const char c : text) {
    result += "0123456789abcdef"[static_cast<unsigned char>(c) >> 4];
    result += "0123456789abcdef"[c & 15];
  }
  return result;
}

// Texts may be no UTF-8, and numbers not finite: neither can stand in JSON as they are.
miq::Json plain(const std::string& text) { return {{"text", hexadecimal(text)}}; }
miq::Json plain(double number) {
  if (std::isfinite(number)) return number;
  return {{"number", std::isnan(number) ? "nan" : number > 0 ? "inf" : "-inf"}};
}
template <class T>
miq::Json plain(T number) {
  return number;
}
template <class T>
miq::Json plain(const std::vector<T>& values) {
  miq::Json result = miq::Json::array();
  for (const T& value : values) result.push_back(plain(value));
  return result;
}

class Dump {
 public:
  explicit Dump(const std::string& path) : data_(path, std::ios::binary) {}
  void add(const std::string& name, std::string_view type, const miq::Shape& shape, const miq::Blob& data) {
    tensors_.push_back({hexadecimal(name), type, shape, at_, data.size()});
    data_.write(data.text().data(), static_cast<std::streamsize>(data.size()));
    at_ += data.size();
  }
  std::string text(const miq::Json& metadata) {
    data_.close();
    return miq::Json{{"metadata", metadata}, {"tensors", tensors_}}.dump() + "\n";
  }

 private:
  std::ofstream data_;
  miq::Json tensors_ = miq::Json::array();
  std::uint64_t at_ = 0;
};

void dump(const std::string& path, const std::string& data, miq::Session& session) {
  using namespace miq;
  Dump dump(data);
  Json metadata = Json::object();
  if (path.ends_with(".gguf")) {
    const GgufFile file = open_gguf(path);
    for (const auto& [name, tensor] : file.tensors) dump.add(name, ggml_type_name(tensor.type), tensor.shape, tensor.data);
    for (const auto& [key, value] : file.metadata) metadata[key] = std::visit([](const auto& content) { return plain(content); }, value);
  } else {
    const SafetensorsFile file = open_safetensors(path);
    for (const auto& [name, entry] : file.entries) dump.add(name, dtype_name(entry.dtype), entry.shape, file.data(entry));
    metadata = file.metadata;
  }
  session.print(dump.text(metadata));
}

int reader_main(const std::string& name, int count, char** words) {
  std::string path, data;
  return miq::run_program(count, words,
                          {name, "",
                           [&](CLI::App& app) {
                             app.add_option("file", path)->required();
                             app.add_option("data", data);
                           },
                           [&](miq::Session& session) {
                             name == "dump-tensors" ? dump(path, data, session) : describe(path, session);
                             return miq::ExitCode::Done;
                           },
                           ""});
}

int call(const std::string& command, int count, char** words) {
  if (command == "inspect-checkpoint") return inspect_main(count, words);
  return command == "convert-checkpoint" ? convert_main(count, words) : reader_main(command, count, words);
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
  const int code = call(words[0], count, arguments.data());
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
