// Inputs that each fuzz target begins with, made by code: the smallest things that a reader takes, one for each of its layers, and one for
// each of its refusals. Nearly all are below 512 bytes, the length up to which tests/fuzz/campaign lets inputs grow.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "miq/formats/journal.h"
#include "miq/formats/mapped_file.h"
#include "tests/fuzz/seeds_gguf.h"
#include "tests/fuzz/seeds_model.h"
#include "tests/fuzz/seeds_pickle.h"
#include "tests/fuzz/seeds_tables.h"
#include "tests/fuzz/seeds_torch.h"

namespace miq::test {

inline std::string journal_seed() {
  const std::string folder = (std::filesystem::temp_directory_path() / ("miq_seed_" + std::to_string(::getpid()))).string();
  std::string log;
  {
    Journal journal = Journal::create(folder, Json{{"a", 1}});
    for (const std::string& text : {std::string("first"), std::string(100, 'x')}) {
      const Bytes pieces[] = {Bytes(reinterpret_cast<const std::uint8_t*>(text.data()), text.size())};
      journal.append(pieces);
    }
    log = read_text_file(folder + "/log");
    journal.remove();
  }
  return log;
}

inline std::map<std::string, std::vector<std::string>> fuzz_seeds() {
  return {{"json", json_seeds()},
          {"safetensors", safetensors_seeds()},
          {"gguf", gguf_seeds()},
          {"journal", {journal_seed(), std::string("\1\1\0\0\0\0\0\0\0a\2\1\0\0\0\0\0\0\0abcdefgh", 28)}},
          {"pickle", pickle_seeds()},
          {"torch_file", torch_file_seeds()},
          {"legacy", legacy_seeds()},
          {"container", container_seeds()},
          {"sentencepiece", sentencepiece_seeds()},
          {"tokenizer_json", tokenizer_json_seeds()},
          {"config", config_seeds()},
          {"index", index_seeds()},
          {"results", {std::string(32, 'a') + little(2, 8) + std::string(8, 'x') + std::string(32, 'b') + little(0, 8) + std::string(20, '\0')}},
          {"report", report_seeds()}};
}

}  // namespace miq::test
