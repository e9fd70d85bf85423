// The metadata becomes JSON unchanged; reading it back fills in the same parts as tokenizer.json and
// tokenizer.model do. What the original tokenizer.json says beyond the GGUF's fields (pattern, normaliser,
// ignore_merges, a default BOS) follows from the name in tokenizer.ggml.pre: one row per name.
#include "miq/model/gguf_tokenizer.h"

#include <cmath>
#include <optional>

#include "miq/base/error.h"
#include "miq/formats/json.h"
#include "miq/model/bpe_tokenizer.h"
#include "miq/model/sentencepiece_tokenizer.h"

namespace miq {
namespace {

constexpr std::string_view kPrefix = "tokenizer.";

Json to_json(const GgufValue& value, const std::string& key, const std::string& name) {
  const auto checked = [&](const std::string& text) -> const std::string& {
    if (!is_valid_utf8(text)) throw FormatError(name, key + " holds a string that is no UTF-8: " + shown(text));
    return text;
  };
  const auto finite = [&](double number) {
    if (!std::isfinite(number)) throw FormatError(name, key + " holds a number that is not finite");
    return number;
  };
  return std::visit(
      [&](const auto& content) -> Json {
        using T = std::decay_t<decltype(content)>;
        if constexpr (std::is_same_v<T, std::string>) {
          return checked(content);
        } else if constexpr (std::is_same_v<T, double>) {
          return finite(content);
        } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          Json list = Json::array();
          for (const std::string& text : content) list.push_back(checked(text));
          return list;
        } else if constexpr (std::is_same_v<T, std::vector<double>>) {
          Json list = Json::array();
          for (double number : content) list.push_back(finite(number));
          return list;
        } else if constexpr (std::is_arithmetic_v<T>) {
          return content;
        } else {
          Json list = Json::array();
          for (const auto item : content) list.push_back(static_cast<typename T::value_type>(item));
          return list;
        }
      },
      value);
}

class Metadata {
 public:
  Metadata(const Json& json, const std::string& name) : json_(json), name_(name) {
    if (!json_.is_object()) throw FormatError(name_, "is not an object");
  }
  [[noreturn]] void fail(const std::string& problem, std::string_view remedy = {}) const { throw FormatError(name_, problem, remedy); }
  const Json* find(const std::string& key) const {
    const auto at = json_.find("tokenizer.ggml." + key);
    return at == json_.end() ? nullptr : &*at;
  }
  const Json& array(const std::string& key) const {
    const Json* list = find(key);
    if (list == nullptr || !list->is_array()) fail("has no array tokenizer.ggml." + key);
    return *list;
  }
  std::string text(const std::string& key) const {
    const Json* value = find(key);
    if (value == nullptr || !value->is_string()) fail("has no string tokenizer.ggml." + key);
    return value->get<std::string>();
  }
  bool flag(const std::string& key, bool otherwise) const {
    const Json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) fail("has a tokenizer.ggml." + key + " that is not true or false");
    return value->get<bool>();
  }
  // The id under "KEY_token_id" when "add_KEY_token" (or its default) asks for it.
  std::vector<std::int32_t> edge(const std::string& key, bool otherwise, std::optional<std::int32_t> default_id = {}) const {
    if (!flag("add_" + key + "_token", otherwise)) return {};
    const Json* id = find(key + "_token_id");
    if (id == nullptr && default_id) return {*default_id};
    if (id == nullptr || !id->is_number_integer() || id->get<double>() < 0 || id->get<double>() >= array("tokens").size()) {
      fail("puts a " + key + " token around the text, but tokenizer.ggml." + key + "_token_id is not the id of a token");
    }
    return {id->get<std::int32_t>()};
  }
  std::vector<std::string> tokens() const {
    std::vector<std::string> out;
    for (const Json& token : array("tokens")) {
      if (!token.is_string()) fail("has a token (number " + std::to_string(out.size()) + ") that is not a string");
      out.push_back(token.get<std::string>());
    }
    return out;
  }
  // One per token; all normal when the file has none.
  std::vector<PieceType> types(std::size_t count) const {
    std::vector<PieceType> out(count, PieceType::Normal);
    if (find("token_type") == nullptr) return out;
    const Json& list = array("token_type");
    if (list.size() != count) fail("has " + std::to_string(list.size()) + " token types for " + std::to_string(count) + " tokens");
    for (std::size_t i = 0; i < count; ++i) {
      if (!list[i].is_number_integer() || list[i].get<double>() < 1 || list[i].get<double>() > 6) {
        fail("has an unknown type for token " + std::to_string(i));
      }
      out[i] = static_cast<PieceType>(list[i].get<int>());
    }
    return out;
  }

 private:
  const Json& json_;
  const std::string& name_;
};

struct PreRow {
  std::string_view gguf, pattern;
  bool nfc, ignore_merges, add_bos;
};
constexpr PreRow kPreRows[] = {
    {"gpt-2", "gpt-2", false, false, false},  {"smollm", "smollm", false, false, false},  {"llama-bpe", "llama-3", false, true, true},
    {"llama3", "llama-3", false, true, true}, {"llama-v3", "llama-3", false, true, true}, {"qwen2", "qwen2", true, false, false},
};

std::shared_ptr<const Tokenizer> read_gpt2(const Metadata& data, const std::string& name) {
  const std::string pre = data.find("pre") ? data.text("pre") : "";
  const PreRow* row = nullptr;
  for (const PreRow& candidate : kPreRows) {
    if (candidate.gguf == pre) row = &candidate;
  }
  if (row == nullptr) {
    data.fail("has the pre-tokenizer " + shown(pre) + " (tokenizer.ggml.pre), which is not supported",
              "Supported: gpt-2, smollm, llama-bpe, qwen2. Convert the model again with a current llama.cpp, or from its original folder");
  }
  const std::vector<std::string> tokens = data.tokens();
  const std::vector<PieceType> types = data.types(tokens.size());
  BpeTokenizerParts parts;
  Vocabulary vocabulary;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto id = static_cast<std::int32_t>(i);
    if (!vocabulary.emplace(tokens[i], id).second) {
      data.fail("has the token " + shown(tokens[i]) + " twice, the second time as number " + std::to_string(i));
    }
    const bool control = types[i] == PieceType::Control || types[i] == PieceType::Unknown;
    if (control || types[i] == PieceType::UserDefined) {
      AddedToken token;
      token.id = id;
      token.content = tokens[i];
      token.special = control;
      parts.added.push_back(std::move(token));
    }
  }
  std::vector<std::pair<std::string, std::string>> merges;
  for (const Json& merge : data.array("merges")) {
    const std::string text = merge.is_string() ? merge.get<std::string>() : "";
    const std::size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      data.fail("has a merge (number " + std::to_string(merges.size()) + ") that is not two tokens");
    }
    merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  BpeOptions options;
  options.ignore_merges = row->ignore_merges;
  parts.bpe = std::make_shared<Bpe>(std::move(vocabulary), merges, options, name);
  if (row->nfc) parts.normalizers.push_back(NormalForm::Nfc);
  parts.pre_tokenizers = byte_level_pre_tokenizers(row->pattern);
  if (data.flag("add_space_prefix", false)) data.fail("asks for a space before the text, which byte-level tokenizers here do not have");
  parts.decoders.push_back(DecodeByteLevel{});
  parts.front = data.edge("bos", row->add_bos);
  parts.back = data.edge("eos", false);
  parts.kind = "byte-level BPE (" + std::string(row->pattern) + ")";
  return make_bpe_tokenizer(std::move(parts), name);
}

std::shared_ptr<const Tokenizer> read_llama(const Metadata& data, const std::string& name) {
  std::vector<std::string> tokens = data.tokens();
  const std::vector<PieceType> types = data.types(tokens.size());
  const Json& scores = data.array("scores");
  if (scores.size() != tokens.size()) {
    data.fail("has " + std::to_string(scores.size()) + " scores for " + std::to_string(tokens.size()) + " tokens");
  }
  SentencePieceModel model;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (!scores[i].is_number()) data.fail("has a score (number " + std::to_string(i) + ") that is not a number");
    model.byte_fallback |= types[i] == PieceType::Byte;
    model.pieces.push_back({std::move(tokens[i]), scores[i].get<float>(), types[i]});
  }
  if (const Json* map = data.find("precompiled_charsmap"); map && !map->empty()) {
    data.fail("normalises text by a precompiled_charsmap, which is not supported");
  }
  model.add_dummy_prefix = data.flag("add_space_prefix", true);
  model.remove_extra_whitespaces = data.flag("remove_extra_whitespaces", false);
  return make_sentencepiece_tokenizer(std::move(model), data.edge("bos", true, 1), data.edge("eos", false, 2), name);
}

}  // namespace

std::string gguf_tokenizer_json(const std::map<std::string, GgufValue>& metadata, const std::string& name) {
  if (!metadata.contains("tokenizer.ggml.model")) return {};
  Json json = Json::object();
  for (auto at = metadata.lower_bound(std::string(kPrefix)); at != metadata.end() && at->first.starts_with(kPrefix); ++at) {
    if (!is_valid_utf8(at->first)) throw FormatError(name, "has a metadata key that is no UTF-8: " + shown(at->first));
    json[at->first] = to_json(at->second, at->first, name);
  }
  return json.dump();
}

std::shared_ptr<const Tokenizer> read_gguf_tokenizer_json(std::string_view text, const std::string& name) {
  const Json json = parse_json(text, name);
  const Metadata data(json, name);
  const std::string model = data.text("model");
  if (model == "gpt2") return read_gpt2(data, name);
  if (model == "llama") return read_llama(data, name);
  data.fail("has the tokenizer model " + shown(model) + " (tokenizer.ggml.model), which is not supported", "Supported: gpt2, llama");
}

}  // namespace miq
