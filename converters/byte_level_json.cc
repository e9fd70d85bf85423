// Facts: tokenizers 0.23 (names and defaults of the steps), transformers convert_slow_tokenizer.py (GPT2Converter,
// Qwen2Converter, OPT's BOS by a template), models/gpt2 and qwen2 tokenization files, llama.cpp llama-vocab.cpp.
#include "miq/converters/byte_level_json.h"

#include <optional>

#include "miq/base/error.h"
#include "miq/formats/json.h"
#include "miq/model/pretokenizer.h"

namespace miq {
namespace {

struct Parts {
  Json vocabulary = Json::object(), merges = Json::array(), added = Json::array();
  std::string pattern;
  bool nfc = false, ignore_merges = false, prefix_space = false;
  std::optional<std::string> front;  // the token that goes before every text
};

Json added_token(const std::string& content, const Json& id, bool special) {
  return {{"id", id}, {"content", content}, {"single_word", false}, {"lstrip", false}, {"rstrip", false}, {"normalized", !special}, {"special", special}};
}

Json byte_level(bool prefix_space, bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", prefix_space}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json pre_tokenizer(const Parts& parts) {
  if (parts.pattern == "gpt-2") return byte_level(parts.prefix_space, true);
  const Json first = parts.pattern == "smollm"
                         ? Json{{"type", "Digits"}, {"individual_digits", true}}
                         : Json{{"type", "Split"},
                                {"pattern", {{"Regex", find_split_pattern_by_name(parts.pattern)->regex}}},
                                {"behavior", "Isolated"},
                                {"invert", false}};
  return {{"type", "Sequence"}, {"pretokenizers", Json::array({first, byte_level(parts.prefix_space, parts.pattern == "smollm")})}};
}

Json front_template(const Parts& parts, const std::string& where) {
  if (!parts.front) return nullptr;
  Json id = parts.vocabulary.value(*parts.front, Json());
  for (const Json& token : parts.added) {
    if (token["content"] == *parts.front) id = token["id"];
  }
  if (!id.is_number()) throw FormatError(where, "the token '" + *parts.front + "' that goes before every text has no id");
  const Json special{{"SpecialToken", {{"id", *parts.front}, {"type_id", 0}}}};
  const Json a{{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, b{{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
  return {{"type", "TemplateProcessing"},
          {"single", Json::array({special, a})},
          {"pair", Json::array({special, a, b})},
          {"special_tokens", {{*parts.front, {{"id", *parts.front}, {"ids", Json::array({id})}, {"tokens", Json::array({*parts.front})}}}}}};
}

std::string tokenizer_json(const Parts& parts, const std::string& where) {
  const Json model{{"type", "BPE"},         {"dropout", nullptr},  {"unk_token", nullptr},      {"continuing_subword_prefix", nullptr}, {"end_of_word_suffix", nullptr},
                   {"fuse_unk", false},     {"byte_fallback", false}, {"ignore_merges", parts.ignore_merges}, {"vocab", parts.vocabulary},            {"merges", parts.merges}};
  return Json{{"version", "1.0"},
              {"truncation", nullptr},
              {"padding", nullptr},
              {"added_tokens", parts.added},
              {"normalizer", parts.nfc ? Json{{"type", "NFC"}} : Json()},
              {"pre_tokenizer", pre_tokenizer(parts)},
              {"post_processor", front_template(parts, where)},
              {"decoder", byte_level(true, true)},
              {"model", model}}
      .dump();
}

Json json_file(const std::map<std::string, Blob>& files, const char* name, const std::string& where) {
  const auto found = files.find(name);
  if (found == files.end()) return Json::object();
  Json json = parse_json(found->second.text(), where + "/" + name);
  if (!json.is_object()) throw FormatError(where + "/" + name, "expected a JSON object");
  return json;
}

Json read_merges(std::string_view text, const std::string& where) {
  Json merges = Json::array();
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    const bool comment = begin == 0 && line.starts_with("#version");
    if (!line.empty() && !comment) {
      const std::size_t space = line.find(' ');
      if (space == line.npos || line.find(' ', space + 1) != line.npos) {
        throw FormatError(where + "/merges.txt", begin, "this line is not two tokens with a space between them");
      }
      merges.push_back(Json::array({line.substr(0, space), line.substr(space + 1)}));
    }
    begin = end + 1;
  }
  return merges;
}

// "</s>" or {"content": "</s>", …}; nothing for null and false.
std::optional<std::string> token_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("content") && value["content"].is_string()) return value["content"].get<std::string>();
  return std::nullopt;
}

// Ids and contents that the config files add to the vocabulary or mark as special in it.
void add_tokens(Parts& parts, const Json& config, const Json& specials, const Json& added) {
  std::map<std::string, Json> by_content;
  for (const auto& [content, id] : added.items()) by_content[content] = added_token(content, id, false);
  for (const Json* source : {&specials, &config}) {
    for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token"}) {
      const auto content = token_text(source->value(key, Json()));
      if (!content) continue;
      if (const Json id = parts.vocabulary.value(*content, by_content.contains(*content) ? by_content[*content]["id"] : Json()); id.is_number()) {
        by_content[*content] = added_token(*content, id, true);
      }
    }
  }
  const Json decoder = config.value("added_tokens_decoder", Json::object());
  for (const auto& [id, token] : decoder.items()) {
    const auto content = token_text(token);
    if (!content || !token.is_object() || id.empty() || id.size() > 9 || id.find_first_not_of("0123456789") != id.npos) continue;
    Json entry = added_token(*content, std::stoi(id), token.value("special", Json()) == true);
    for (const char* key : {"single_word", "lstrip", "rstrip", "normalized"}) {
      if (token.contains(key)) entry[key] = token[key];
    }
    by_content[*content] = std::move(entry);
  }
  for (const auto& [content, token] : by_content) parts.added.push_back(token);
}

}  // namespace

std::string tokenizer_json_from_bpe_files(const std::map<std::string, Blob>& files, const std::string& where) {
  if (!files.contains("vocab.json") || !files.contains("merges.txt")) return {};
  const Json config = json_file(files, "tokenizer_config.json", where), specials = json_file(files, "special_tokens_map.json", where);
  const std::string type = token_text(config.value("tokenizer_class", Json())).value_or("GPT2Tokenizer");
  Parts parts;
  if (type.starts_with("GPT2Tokenizer")) {
    parts.pattern = "gpt-2";
  } else if (type.starts_with("Qwen2Tokenizer")) {
    parts.pattern = "qwen2";
    parts.nfc = true;
  } else {
    throw FormatError(where, "the tokenizer is a '" + type + "' in vocab.json and merges.txt, which is not read in this form", "Save it with transformers as tokenizer.json (a fast tokenizer)");
  }
  parts.vocabulary = json_file(files, "vocab.json", where);
  parts.merges = read_merges(files.at("merges.txt").text(), where);
  parts.prefix_space = config.value("add_prefix_space", Json()) == true;
  add_tokens(parts, config, specials, json_file(files, "added_tokens.json", where));
  if (config.value("add_bos_token", Json()) == true) {
    parts.front = token_text(config.value("bos_token", Json()));
    if (!parts.front) parts.front = token_text(specials.value("bos_token", Json()));
  }
  return tokenizer_json(parts, where);
}

std::string tokenizer_json_from_gguf(std::string_view text, const std::string& where) {
  const Json json = parse_json(text, where);
  const auto value = [&](const char* key) { return json.value(std::string("tokenizer.ggml.") + key, Json()); };
  if (value("model") != "gpt2") return {};
  static const std::map<std::string, std::string> kPatterns{{"gpt-2", "gpt-2"},     {"smollm", "smollm"},    {"llama-bpe", "llama-3"},
                                                            {"llama3", "llama-3"}, {"llama-v3", "llama-3"}, {"qwen2", "qwen2"}};
  const auto pattern = kPatterns.find(value("pre").is_string() ? value("pre").get<std::string>() : "");
  if (pattern == kPatterns.end()) return {};
  Parts parts;
  parts.pattern = pattern->second;
  parts.nfc = parts.pattern == "qwen2";
  parts.ignore_merges = parts.pattern == "llama-3";
  const Json tokens = value("tokens"), types = value("token_type"), bos = value("bos_token_id"), eos = value("add_eos_token");
  if (eos == true) return {};  // no template for it here
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    parts.vocabulary[tokens[i].get<std::string>()] = i;
    const int type = types.is_array() && i < types.size() ? types[i].get<int>() : 1;
    if (type == 2 || type == 3 || type == 4) parts.added.push_back(added_token(tokens[i].get<std::string>(), i, type != 4));
  }
  for (const Json& merge : value("merges")) {
    const auto pair = merge.get<std::string>();
    const auto space = pair.find(' ');
    parts.merges.push_back(Json::array({pair.substr(0, space), pair.substr(space + 1)}));
  }
  const Json add_bos = value("add_bos_token");
  if (add_bos.is_boolean() ? add_bos.get<bool>() : parts.pattern == "llama-3") parts.front = tokens.at(bos.get<std::size_t>()).get<std::string>();
  return tokenizer_json(parts, where);
}

}  // namespace miq
