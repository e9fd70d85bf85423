// What our readers make of files that Python tests wrote. Only for tests.
//
//   format_probe decode FILE.gguf OUT     every tensor as float32, in the order of their names
//   format_probe judge KIND BATCH OUT     BATCH holds files, each behind its length (8 bytes); OUT gets
//                                         a line for each: "ok", or why it is refused
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iostream>
#include <string>

#include "miq/base/error.h"
#include "miq/formats/gguf.h"
#include "miq/formats/json.h"
#include "miq/formats/mapped_file.h"
#include "miq/formats/safetensors.h"

namespace miq {
namespace {

void write_values(const std::string& path, std::ostream& out) {
  for (const auto& [name, tensor] : open_gguf(path).tensors) {
    const auto values = dequantize_gguf(tensor, name);
    out.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(float)));
  }
}

std::string verdict(const std::string& kind, const Blob& file) {
  try {
    if (kind == "safetensors") {
      read_safetensors(file, "file");
    } else if (kind == "gguf") {
      read_gguf(file, "file");
    } else {
      parse_json(file.text(), "file");
    }
    return "ok";
  } catch (const FormatError& error) {
    return error.what();
  }
}

void judge(const std::string& kind, const std::string& batch, std::ostream& out) {
  const Blob all = map_file(batch);
  for (std::uint64_t at = 0, length = 0; at < all.size(); at += length) {
    std::memcpy(&length, all.bytes().data() + at, sizeof length);
    at += sizeof length;
    out << verdict(kind, all.slice(at, length)) << '\n';
  }
}

}  // namespace
}  // namespace miq

int main(int count, char** words) {
  const std::string mode = count > 1 ? words[1] : "";
  try {
    if (mode == "decode" && count == 4) {
      std::ofstream out(words[3], std::ios::binary);
      miq::write_values(words[2], out);
      return out.flush() ? 0 : 1;
    }
    if (mode == "judge" && count == 5) {
      std::ofstream out(words[4], std::ios::binary);
      miq::judge(words[2], words[3], out);
      return out.flush() ? 0 : 1;
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
  std::cerr << "usage: format_probe decode FILE OUT | judge KIND BATCH OUT\n";
  return 2;
}
