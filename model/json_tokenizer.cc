// The file's objects are tables of {"type": NAME, …}: each reader below knows its types and refuses the
// others by name. Field meanings and defaults: tokenizers 0.23 (tokenizers/src/*/mod.rs).
#include "miq/model/json_tokenizer.h"

#include <optional>

#include "miq/base/error.h"
#include "miq/formats/json.h"
#include "miq/model/bpe_tokenizer.h"

namespace miq {
namespace {

// A JSON object of the file together with its place, for messages.
class Fields {
 public:
  Fields(const Json& json, std::string file, std::string where) : json_(json), file_(std::move(file)), where_(std::move(where)) {
    if (!json_.is_object()) fail("is not an object");
  }
  [[noreturn]] void fail(const std::string& problem, std::string_view remedy = "Save the tokenizer again with transformers") const {
    throw FormatError(file_, where_ + " " + problem, remedy);
  }
  [[noreturn]] void refuse_type(std::string_view supported) const {
    fail("has the type " + shown(type()) + ", which is not supported", "Supported: " + std::string(supported));
  }
  // nullptr where the key is absent or null.
  const Json* find(const char* key) const {
    const auto at = json_.find(key);
    return at == json_.end() || at->is_null() ? nullptr : &*at;
  }
  const Json& at(const char* key) const {
    const Json* found = find(key);
    if (found == nullptr) fail(std::string("has no '") + key + "'");
    return *found;
  }
  std::string type() const { return text("type"); }
  std::string text(const char* key) const {
    const Json& value = at(key);
    if (!value.is_string()) fail(std::string("has a '") + key + "' that is not a string");
    return value.get<std::string>();
  }
  std::string text_or(const char* key, std::string otherwise) const { return find(key) ? text(key) : otherwise; }
  bool flag_or(const char* key, bool otherwise) const {
    const Json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) fail(std::string("has a '") + key + "' that is not true or false");
    return value->get<bool>();
  }
  std::int64_t integer(const char* key) const {
    const Json& value = at(key);
    if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX)) {
      fail(std::string("has a '") + key + "' that is not an integer in range");
    }
    return value.get<std::int64_t>();
  }
  Fields object(const char* key) const { return Fields(at(key), file_, where_ + "." + key); }
  std::vector<Fields> objects(const char* key) const {
    const Json& list = array(key);
    std::vector<Fields> out;
    for (std::size_t i = 0; i < list.size(); ++i) out.emplace_back(list[i], file_, where_ + "." + key + "[" + std::to_string(i) + "]");
    return out;
  }
  const Json& array(const char* key) const {
    const Json& list = at(key);
    if (!list.is_array()) fail(std::string("has a '") + key + "' that is not an array");
    return list;
  }
  const Json& json() const { return json_; }
  const std::string& file() const { return file_; }

 private:
  const Json& json_;
  std::string file_, where_;
};

std::int32_t token_id(const Fields& fields, const Json& value, const std::string& what) {
  if (!value.is_number_integer() || value.get<double>() < 0 || value.get<double>() > kMaxTokenId) {
    fields.fail("gives " + what + " an id that is not an integer from 0 to " + std::to_string(kMaxTokenId));
  }
  return value.get<std::int32_t>();
}

std::string one_character(const Fields& fields, const char* key) {
  const std::string text = fields.text(key);
  if (text.empty() || decode_utf8(text, 0).length != text.size()) fields.fail(std::string("has a '") + key + "' that is not one character");
  return text;
}

// {"String": TEXT} or TEXT; {"Regex": …} gives nothing.
std::optional<std::string> string_pattern(const Fields& fields) {
  const Json& pattern = fields.at("pattern");
  if (pattern.is_string()) return pattern.get<std::string>();
  const Fields inner = fields.object("pattern");
  if (inner.find("String")) return inner.text("String");
  return std::nullopt;
}

std::string shown_pattern(const Fields& fields) { return shown(fields.at("pattern").dump(), 300); }

void read_normalizer(const Fields& fields, std::vector<Normalizer>& out) {
  const std::string type = fields.type();
  if (type == "Sequence") {
    for (const Fields& inner : fields.objects("normalizers")) read_normalizer(inner, out);
  } else if (type == "NFC") {
    out.push_back(NormalForm::Nfc);
  } else if (type == "NFD") {
    out.push_back(NormalForm::Nfd);
  } else if (type == "NFKC") {
    out.push_back(NormalForm::Nfkc);
  } else if (type == "NFKD") {
    out.push_back(NormalForm::Nfkd);
  } else if (type == "Prepend") {
    out.push_back(PrependText{fields.text("prepend")});
  } else if (type == "Replace") {
    const auto from = string_pattern(fields);
    if (!from || from->empty()) fields.fail("replaces the pattern " + shown_pattern(fields) + "; only strings are supported");
    out.push_back(ReplaceText{*from, fields.text("content")});
  } else {
    fields.refuse_type("NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence");
  }
}

void read_pre_tokenizer(const Fields& fields, std::vector<PreTokenizer>& out) {
  const std::string type = fields.type();
  if (type == "Sequence") {
    for (const Fields& inner : fields.objects("pretokenizers")) read_pre_tokenizer(inner, out);
    return;
  }
  if (!out.empty() && std::holds_alternative<ByteLevel>(out.back())) fields.fail("comes after ByteLevel, which must be last");
  if (type == "ByteLevel") {
    out.push_back(ByteLevel{fields.flag_or("add_prefix_space", true), fields.flag_or("use_regex", true)});
  } else if (type == "Digits") {
    out.push_back(SplitDigits{fields.flag_or("individual_digits", false)});
  } else if (type == "Split") {
    const Json* regex = fields.at("pattern").is_object() ? fields.object("pattern").find("Regex") : nullptr;
    const SplitPattern* known = regex && regex->is_string() ? find_split_pattern_by_regex(regex->get<std::string>()) : nullptr;
    if (known == nullptr) {
      fields.fail("splits by the pattern " + shown_pattern(fields) + ", which is not one of those known",
                  "Known: the patterns of GPT-2, SmolLM, Llama-3 and Qwen2");
    }
    // Every character is in some match, so Removed would leave nothing and inverting changes nothing else.
    if (fields.text("behavior") != "Isolated" || fields.flag_or("invert", false)) {
      fields.fail("splits with behavior " + shown(fields.text("behavior")) + "; only Isolated, not inverted, is supported");
    }
    out.push_back(SplitByPattern{known});
  } else if (type == "Metaspace") {
    Metaspace step;
    step.replacement = one_character(fields, "replacement");
    step.split = fields.flag_or("split", true);
    const std::string scheme = fields.text_or("prepend_scheme", fields.flag_or("add_prefix_space", true) ? "always" : "never");
    if (scheme == "first") {
      step.prepend = Metaspace::Prepend::First;
    } else if (scheme == "never") {
      step.prepend = Metaspace::Prepend::Never;
    } else if (scheme != "always") {
      fields.fail("has the unknown prepend_scheme " + shown(scheme));
    }
    out.push_back(step);
  } else {
    fields.refuse_type("ByteLevel, Digits, Metaspace, Split, Sequence");
  }
}

void read_template(const Fields& fields, BpeTokenizerParts& parts) {
  std::vector<std::int32_t> front, back;
  bool seen_text = false;
  for (const Fields& piece : fields.objects("single")) {
    if (piece.find("Sequence")) {
      if (seen_text || piece.object("Sequence").text("id") != "A") piece.fail("is not the one sequence A that a single text needs");
      seen_text = true;
      continue;
    }
    const std::string id = piece.object("SpecialToken").text("id");
    const Fields specials = fields.object("special_tokens");
    const Fields special = specials.object(id.c_str());
    for (const Json& value : special.array("ids")) (seen_text ? back : front).push_back(token_id(special, value, "the special token"));
  }
  if (!seen_text) fields.fail("has no place for the text in 'single'");
  parts.front.insert(parts.front.begin(), front.begin(), front.end());
  parts.back.insert(parts.back.end(), back.begin(), back.end());
}

void read_post_processor(const Fields& fields, BpeTokenizerParts& parts) {
  const std::string type = fields.type();
  if (type == "Sequence") {
    for (const Fields& inner : fields.objects("processors")) read_post_processor(inner, parts);
  } else if (type == "TemplateProcessing") {
    read_template(fields, parts);
  } else if (type != "ByteLevel") {  // which moves offsets only
    fields.refuse_type("ByteLevel, TemplateProcessing, Sequence");
  }
}

void read_decoder(const Fields& fields, std::vector<Decoder>& out) {
  const std::string type = fields.type();
  if (type == "Sequence") {
    for (const Fields& inner : fields.objects("decoders")) read_decoder(inner, out);
  } else if (type == "ByteLevel") {
    out.push_back(DecodeByteLevel{});
  } else if (type == "Replace") {
    const auto from = string_pattern(fields);
    if (!from || from->empty()) fields.fail("replaces the pattern " + shown_pattern(fields) + "; only strings are supported");
    out.push_back(DecodeReplace{*from, fields.text("content")});
  } else if (type == "ByteFallback") {
    out.push_back(DecodeByteFallback{});
  } else if (type == "Fuse") {
    out.push_back(DecodeFuse{});
  } else if (type == "Strip") {
    out.push_back(DecodeStrip{one_character(fields, "content"), fields.integer("start"), fields.integer("stop")});
  } else if (type == "Metaspace") {
    const bool never = fields.text_or("prepend_scheme", "always") == "never" || !fields.flag_or("add_prefix_space", true);
    out.push_back(DecodeMetaspace{one_character(fields, "replacement"), !never});
  } else {
    fields.refuse_type("ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Strip, Sequence");
  }
}

// "left right" or ["left", "right"].
std::pair<std::string, std::string> read_merge(const Fields& model, const Json& merge, std::size_t place) {
  const bool two = merge.is_array() && merge.size() == 2;
  if (two && merge[0].is_string() && merge[1].is_string()) return {merge[0], merge[1]};
  if (merge.is_string()) {
    const std::string& text = merge.get_ref<const std::string&>();
    const std::size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos)
      return {text.substr(0, space), text.substr(space + 1)};
  }
  model.fail("has a merge (number " + std::to_string(place) + ") that is not two tokens");
}

std::shared_ptr<const Bpe> read_bpe(const Fields& model) {
  if (const std::string type = model.text_or("type", "BPE"); type != "BPE") model.refuse_type("BPE");
  if (const Json* dropout = model.find("dropout"); dropout && !(dropout->is_number() && dropout->get<double>() == 0)) {
    model.fail("drops merges at random (dropout), which is not supported");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.text_or(key, "").empty()) model.fail(std::string("has a ") + key + ", which is not supported");
  }
  Vocabulary vocabulary;
  const Fields tokens = model.object("vocab");
  vocabulary.reserve(tokens.json().size());
  for (const auto& [token, id] : tokens.json().items()) {
    vocabulary[token] = token_id(tokens, id, "the token " + shown(token));
  }
  std::vector<std::pair<std::string, std::string>> merges;
  const Json& list = model.array("merges");
  merges.reserve(list.size());
  for (std::size_t i = 0; i < list.size(); ++i) merges.push_back(read_merge(model, list[i], i));
  BpeOptions options;
  options.unknown = model.text_or("unk_token", "");
  options.fuse_unknown = model.flag_or("fuse_unk", false);
  options.byte_fallback = model.flag_or("byte_fallback", false);
  options.ignore_merges = model.flag_or("ignore_merges", false);
  return std::make_shared<Bpe>(std::move(vocabulary), merges, std::move(options), model.file());
}

std::string describe(const BpeTokenizerParts& parts) {
  bool byte_level = false, digits = false;
  std::string pattern;
  for (const PreTokenizer& step : parts.pre_tokenizers) {
    if (const auto* split = std::get_if<SplitByPattern>(&step)) pattern = split->pattern->name;
    if (const auto* bytes = std::get_if<ByteLevel>(&step)) {
      byte_level = true;
      if (bytes->use_pattern && pattern.empty()) pattern = "gpt-2";
    }
    if (const auto* split = std::get_if<SplitDigits>(&step)) digits = split->individual;
  }
  if (!byte_level) return "BPE with byte fallback";
  if (digits && pattern == "gpt-2") pattern = "smollm";
  return "byte-level BPE" + (pattern.empty() ? "" : " (" + pattern + ")");
}

}  // namespace

std::shared_ptr<const Tokenizer> read_tokenizer_json(std::string_view text, const std::string& name) {
  const Json json = parse_json(text, name);
  const Fields root(json, name, "the file");
  BpeTokenizerParts parts;
  parts.bpe = read_bpe(root.object("model"));
  if (root.find("added_tokens")) {
    for (const Fields& fields : root.objects("added_tokens")) {
      AddedToken token;
      token.content = fields.text("content");
      token.id = token_id(fields, fields.at("id"), shown(token.content));
      token.special = fields.flag_or("special", false);
      token.normalized = fields.flag_or("normalized", !token.special);
      token.single_word = fields.flag_or("single_word", false);
      token.left_strip = fields.flag_or("lstrip", false);
      token.right_strip = fields.flag_or("rstrip", false);
      parts.added.push_back(std::move(token));
    }
  }
  if (root.find("normalizer")) read_normalizer(root.object("normalizer"), parts.normalizers);
  if (root.find("pre_tokenizer")) read_pre_tokenizer(root.object("pre_tokenizer"), parts.pre_tokenizers);
  if (root.find("post_processor")) read_post_processor(root.object("post_processor"), parts);
  if (root.find("decoder")) {
    read_decoder(root.object("decoder"), parts.decoders);
  } else {
    parts.decoders.push_back(DecodeJoin{});
  }
  parts.kind = describe(parts);
  return make_bpe_tokenizer(std::move(parts), name);
}

}  // namespace miq
