// transformers reads a tokenizer's special tokens from tokenizer_config.json ("bos_token": a text, or an object with its "content"; null where
// there is none) and, where that does not say, from special_tokens_map.json; llama.cpp from the metadata of its files. A model's config.json
// may name other ones: Qwen2.5's has a bos_token_id, its tokenizer has none.
#include <array>

#include "miq/evaluate/zeroshot.h"
#include "miq/model/gguf_tokenizer.h"

namespace miq {
namespace {

Json small_file(const Model& model, const std::string& name) {
  const auto file = model.files.find(name);
  if (file == model.files.end()) return {};
  Json json = Json::parse(file->second.text(), nullptr, false);
  return json.is_object() ? json : Json();
}

std::optional<std::int32_t> known_id(const Model& model, const Json& id) {
  if (!id.is_number_integer() || id < 0 || id >= model.config.vocabulary) return std::nullopt;
  return id.get<std::int32_t>();
}

// The id of a special token by its text.
std::optional<std::int32_t> id_of(const Model& model, const Json& settings, const std::string& text) {
  if (const auto added = settings.find("added_tokens_decoder"); added != settings.end() && added->is_object()) {
    for (const auto& [id, token] : added->items()) {
      if (!token.is_object() || token.value("content", Json()) != text || id.empty() || id.size() > 9) continue;
      if (id.find_first_not_of("0123456789") == std::string::npos) return known_id(model, std::stoi(id));
    }
  }
  const std::vector<std::int32_t> ids = model.tokenizer->encode(text, false);
  return ids.size() == 1 ? std::optional(ids.front()) : std::nullopt;
}

// `key`: "bos_token". What the tokenizer's files say: `stated` is set where they name the token, or say that there is none.
std::optional<std::int32_t> token_of_files(const Model& model, const std::string& key, bool& stated) {
  const Json settings = small_file(model, "tokenizer_config.json");
  for (const Json& file : {settings, small_file(model, "special_tokens_map.json")}) {
    if (!file.is_object() || !file.contains(key)) continue;
    const Json& token = file.at(key);
    stated = true;
    if (token.is_string()) return id_of(model, settings, token.get<std::string>());
    if (token.is_object() && token.contains("content") && token.at("content").is_string()) return id_of(model, settings, token.at("content").get<std::string>());
    if (token.is_null()) return std::nullopt;
    stated = false;
  }
  const Json gguf = small_file(model, std::string(kGgufTokenizerFile));
  const std::string id = "tokenizer.ggml." + key.substr(0, 3) + "_token_id";
  if (!gguf.is_object() || !gguf.contains(id)) return std::nullopt;
  stated = true;
  return known_id(model, gguf.at(id));
}

}  // namespace

std::optional<std::int32_t> begin_of_text(const Model& model) {
  const std::array<std::pair<const char*, std::optional<std::int64_t>>, 2> kinds{{{"bos_token", model.config.bos_id}, {"eos_token", model.config.eos_id}}};
  for (const auto& [key, configured] : kinds) {
    bool stated = false;
    std::optional<std::int32_t> id;
    if (model.tokenizer) id = token_of_files(model, key, stated);
    if (!stated && configured) id = static_cast<std::int32_t>(*configured);
    if (id) return id;
  }
  return std::nullopt;
}

}  // namespace miq
