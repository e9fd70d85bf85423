// The kinds of tokenizer files, in order of preference, and the small files that travel with a model.
#include "miq/model/tokenizer.h"

#include <array>

#include "miq/model/gguf_tokenizer.h"
#include "miq/model/json_tokenizer.h"
#include "miq/model/sentencepiece_tokenizer.h"

namespace miq {
namespace {

using Files = std::map<std::string, Blob>;

std::string_view text_of(const Files& files, const char* name) {
  const auto at = files.find(name);
  return at == files.end() ? std::string_view() : at->second.text();
}

struct Kind {
  const char* file;
  std::shared_ptr<const Tokenizer> (*read)(const Files& files, const std::string& name);
};

constexpr Kind kKinds[] = {
    {"tokenizer.json",
     [](const Files& files, const std::string& name) { return read_tokenizer_json(text_of(files, "tokenizer.json"), name); }},
    {"tokenizer.model",
     [](const Files& files, const std::string& name) {
       return read_sentencepiece(files.at("tokenizer.model").bytes(), text_of(files, "tokenizer_config.json"), name);
     }},
    {"tokenizer.gguf.json",
     [](const Files& files, const std::string& name) { return read_gguf_tokenizer_json(text_of(files, "tokenizer.gguf.json"), name); }},
};

constexpr std::array<std::string_view, 9> kModelFiles = {
    "config.json",       "generation_config.json",  "tokenizer.json",      "tokenizer.model",    "tokenizer_config.json",
    "added_tokens.json", "special_tokens_map.json", "chat_template.jinja", "tokenizer.gguf.json"};

}  // namespace

std::shared_ptr<const Tokenizer> load_tokenizer(const std::map<std::string, Blob>& files, const std::string& source) {
  for (const Kind& kind : kKinds) {
    if (files.contains(kind.file)) return kind.read(files, source.empty() ? kind.file : source + "/" + kind.file);
  }
  return nullptr;
}

std::span<const std::string_view> model_file_names() { return kModelFiles; }

}  // namespace miq
