// A small model and a text, as files that the programs read.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>

#include "miq/model/model.h"
#include "tests/model/small_model.h"
#include "tests/tools/byte_tokenizer.h"

namespace miq::test {

inline Config small_config(const std::string& architecture = "llama") {
  Config config;
  config.architecture = architecture;
  config.vocabulary = 256;
  config.hidden = 96;
  config.max_positions = 128;
  config.layers.assign(3, {4, 2, 24, 160});
  config.tied_head = true;
  return config;
}

inline void write_model(const std::filesystem::path& file, const Config& config, std::uint32_t seed = 1) {
  Model model = small_model(config, DType::BF16, seed, 0.8f).model;
  const std::string tokenizer = byte_tokenizer();
  model.files.emplace("tokenizer.json", Blob(std::string_view(tokenizer)));
  model.tokenizer = load_tokenizer(model.files, "the test");
  save_model(model, file.string());
}

inline void write_text(const std::filesystem::path& file) {
  std::ofstream text(file);
  for (int i = 0; i < 400; ++i) text << "Sentence number " << i * i << " says little, but says it well.\n";
}

}  // namespace miq::test
