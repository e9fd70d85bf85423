// Containers whose digests are right, so that what lies behind them is reached. The first byte says what the input is: a merge
// patch of the table ('t'), one of the manifest of a whole file ('m' is its text), the bytes of a payload (a digit: which), or
// the file itself. What is accepted can be decoded, and comes back the same when it is written again.
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <unistd.h>

#include "miq/base/checked.h"
#include "miq/base/error.h"
#include "miq/formats/mapped_file.h"
#include "tests/formats/container_samples.h"
#include "tests/fuzz/patched.h"

namespace {

const std::string& good_file() {
  static const std::string good = [] {
    const std::string path = (std::filesystem::temp_directory_path() / ("miq_fuzz_" + std::to_string(::getpid()) + ".miq")).string();
    miq::write_container(path, miq::test::rich_container());
    std::string text = miq::read_text_file(path);
    std::filesystem::remove(path);
    return text;
  }();
  return good;
}

std::string file_of(const std::string& input) {
  if (input.empty()) return input;
  const std::string rest = input.substr(1);
  const char kind = input[0];
  if (kind == 't') {
    return miq::test::rewritten(good_file(), [&](miq::Json& table) { table.merge_patch(miq::parse_json(rest, "patch")); });
  }
  if (kind >= '0' && kind < '@') {
    int number = kind - '0';
    return miq::test::rewritten(good_file(), [](miq::Json&) {}, {}, [&](const std::string& stored, std::string& bytes) {
      if (stored.find('#') != stored.npos ? number-- == 0 : kind == '?' && stored == "miq/manifest.json") bytes = rest;
    });
  }
  return input;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const std::string input = file_of(std::string(reinterpret_cast<const char*>(data), size));
    const miq::Container content = miq::read_container(miq::Blob(std::string_view(input)), "input");
    for (const auto& [name, tensor] : content.tensors) {
      const auto bytes = miq::tensor_bytes(tensor.dtype, tensor.shape);
      if (!bytes) std::abort();
      if (*bytes > (1 << 20)) continue;
      try {
        if (miq::decode(tensor, name).size() != *bytes) std::abort();
      } catch (const miq::FormatError&) {  // what only decoding sees, such as a frame that is damaged within
      }
    }
  } catch (const miq::FormatError&) {
  }
  return 0;
}
