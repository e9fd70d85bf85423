// Encodes texts for compare_tokenizers.py.
//   tokenizer_ids TOKENIZER TEXTS OUT
// TOKENIZER: a tokenizer file under its usual name. TEXTS: for each text its length as 8 bytes,
// little-endian, then its bytes. OUT: for each text three records, each a length (8 bytes) and content: the
// ids with special ones, the ids without (4 bytes each), and the text decoded from the ids without.
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>

#include "miq/base/error.h"
#include "miq/model/tokenizer.h"

namespace {

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw miq::Error(path + ": cannot be read");
  return {std::istreambuf_iterator<char>(in), {}};
}

std::shared_ptr<const miq::Tokenizer> load(const std::string& path) {
  const std::filesystem::path file(path);
  std::map<std::string, miq::Blob> files;
  files[file.filename()] = miq::Blob(std::string_view(read_file(path)));
  const auto config = file.parent_path() / "tokenizer_config.json";
  if (std::filesystem::exists(config)) files["tokenizer_config.json"] = miq::Blob(std::string_view(read_file(config)));
  auto tokenizer = miq::load_tokenizer(files, file.parent_path());
  if (!tokenizer) throw miq::Error(path + ": not a tokenizer file by its name");
  return tokenizer;
}

void write_record(std::ostream& out, const void* data, std::uint64_t bytes) {
  out.write(reinterpret_cast<const char*>(&bytes), sizeof bytes);
  out.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
}

int run(const char* tokenizer_path, const char* texts_path, const char* out_path) {
  const auto tokenizer = load(tokenizer_path);
  const std::string texts = read_file(texts_path);
  std::ofstream out(out_path, std::ios::binary);
  double seconds = 0;
  std::uint64_t bytes = 0;
  for (std::size_t at = 0; at < texts.size();) {
    std::uint64_t length = 0;
    std::memcpy(&length, texts.data() + at, sizeof length);
    const std::string_view text(texts.data() + at + sizeof length, length);
    at += sizeof length + length;
    const auto start = std::chrono::steady_clock::now();
    const auto with = tokenizer->encode(text);
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    bytes += length;
    const auto without = tokenizer->encode(text, false);
    const std::string decoded = tokenizer->decode(without);
    write_record(out, with.data(), with.size() * sizeof(std::int32_t));
    write_record(out, without.data(), without.size() * sizeof(std::int32_t));
    write_record(out, decoded.data(), decoded.size());
  }
  std::cerr << tokenizer->kind() << ": " << bytes << " bytes in " << seconds << " s\n";
  return out.good() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  try {
    return run(argv[1], argv[2], argv[3]);
  } catch (const std::exception& error) {
    std::cerr << "tokenizer_ids: " << error.what() << "\n";
    return 1;
  }
}
