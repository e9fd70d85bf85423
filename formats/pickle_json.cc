// A walk bounded in depth, in values and in bytes of text; the path's own nodes are kept to notice cycles. Texts are made
// valid UTF-8 here, so that the result can be dumped whatever the file held.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "miq/formats/pickle_objects.h"

namespace miq {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

// How many bytes of a well-formed UTF-8 character begin `text`; 0 where there is none.
std::size_t utf8_character(std::string_view text) {
  const auto byte = [text](std::size_t i) { return i < text.size() ? static_cast<std::uint8_t>(text[i]) : 0u; };
  const auto follows = [&](std::size_t i) { return (byte(i) & 0xc0) == 0x80; };
  const unsigned first = byte(0), second = byte(1);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return follows(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    const bool fits = follows(1) && follows(2) && !(first == 0xe0 && second < 0xa0) && !(first == 0xed && second > 0x9f);
    return fits ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    const bool fits = follows(1) && follows(2) && follows(3) && !(first == 0xf0 && second < 0x90) && !(first == 0xf4 && second > 0x8f);
    return fits ? 4 : 0;
  }
  return 0;
}

std::string valid_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const std::size_t length = utf8_character(text);
    result += length ? text.substr(0, length) : kReplacement;
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return result;
}

class Walk {
 public:
  Walk(const PickleTree& tree, const PickleJsonLimits& limits)
      : tree_(tree), limits_(limits), values_left_(limits.max_values), text_left_(limits.max_text) {}

  Json value(NodeId node, int depth) {
    if (values_left_ == 0) return omitted("size");
    --values_left_;
    switch (tree_.kind(node)) {
      case NodeKind::None: return nullptr;
      case NodeKind::Bool: return tree_.boolean(node);
      case NodeKind::Int: return tree_.integer(node);
      case NodeKind::BigInt: return tree_.real(node);
      case NodeKind::Float: return std::isfinite(tree_.real(node)) ? Json(tree_.real(node)) : Json();
      case NodeKind::String: return text(tree_.text(node));
      case NodeKind::Binary: return {{"__opaque__", std::to_string(tree_.text(node).size()) + " bytes"}};
      case NodeKind::Global: return global(node);
      case NodeKind::Persistent: return {{"__opaque__", "storage"}};
      default: break;
    }
    if (depth >= limits_.max_depth) return omitted("depth");
    if (std::find(path_.begin(), path_.end(), node) != path_.end()) return omitted("cycle");
    path_.push_back(node);
    Json result = composed(node, depth + 1);
    path_.pop_back();
    return result;
  }

 private:
  static Json omitted(const char* why) { return {{"__omitted__", why}}; }

  Json text(std::string_view bytes) {
    if (bytes.size() > text_left_) return omitted("size");
    text_left_ -= bytes.size();
    return valid_utf8(bytes);
  }

  Json global(NodeId node) {
    const PickleGlobal& named = *tree_.global(node);
    const std::string name = valid_utf8(named.full_name());
    const Json shown = text(name);
    if (!shown.is_string() || (named.module == "torch" && !named.name.ends_with("Storage"))) return shown;
    return {{"__opaque__", shown}};
  }

  Json array(std::span<const NodeId> items, int depth) {
    Json result = Json::array();
    for (const NodeId item : items) {
      if (values_left_ == 0) {
        result.push_back(omitted("size"));
        break;
      }
      result.push_back(value(item, depth));
    }
    return result;
  }

  void put(Json& object, std::string_view key, Json&& item) {
    if (key.size() > text_left_) {
      object["__omitted__"] = "size";
      return;
    }
    text_left_ -= key.size();
    object[valid_utf8(key)] = std::move(item);
  }

  void put_pairs(Json& object, std::span<const std::pair<NodeId, NodeId>> pairs, int depth) {
    for (const auto& [key, item] : pairs) {
      if (values_left_ == 0) {
        object["__omitted__"] = "size";
        return;
      }
      Json shown = value(key, depth);
      std::string name = shown.is_string() ? shown.get<std::string>() : shown.dump();
      put(object, name, value(item, depth));
    }
  }

  Json composed(NodeId node, int depth) {
    switch (tree_.kind(node)) {
      case NodeKind::Tuple:
      case NodeKind::List:
      case NodeKind::Set: return array(tree_.items(node), depth);
      case NodeKind::Dict: {
        Json result = Json::object();
        put_pairs(result, tree_.pairs(node), depth);
        return result;
      }
      default: break;
    }
    if (is_call_of(tree_, node, "_codecs", "encode") || is_call_of(tree_, node, "builtins", "bytes") ||
        is_call_of(tree_, node, "builtins", "bytearray")) {
      return {{"__opaque__", "bytes"}};
    }
    if (is_dict(tree_, node)) {  // the state of an OrderedDict (a state dict's _metadata) is left out
      Json result = Json::object();
      put_pairs(result, dict_items(tree_, node), depth);
      return result;
    }
    if (const auto inner = elements(tree_, node); !inner.empty() && tree_.items(node).empty()) return array(inner, depth);
    return object(node, depth);
  }

  // A class by value is looked up in its dict: once, however many objects it has.
  Json class_name(NodeId type) {
    const auto [known, fresh] = classes_.try_emplace(type);
    if (fresh) {
      const auto described = describe_type(tree_, type);
      known->second = described ? described->full_name() : "unknown";
    }
    return text(known->second);
  }

  Json object(NodeId node, int depth) {
    Json result = Json::object();
    result["__class__"] = class_name(type_of(tree_, node));
    for (const auto& [name, item] : attributes(tree_, node)) {
      if (values_left_ == 0) {
        result["__omitted__"] = "size";
        break;
      }
      put(result, name, value(item, depth));
    }
    if (!tree_.items(node).empty()) result["__items__"] = array(tree_.items(node), depth);
    if (!tree_.pairs(node).empty()) put_pairs(result["__pairs__"] = Json::object(), tree_.pairs(node), depth);
    const bool bare = tree_.state(node) == kNoNode && tree_.items(node).empty() && tree_.pairs(node).empty();
    if (bare && !tree_.items(tree_.args(node)).empty()) result["__args__"] = array(tree_.items(tree_.args(node)), depth);
    return result;
  }

  const PickleTree& tree_;
  const PickleJsonLimits& limits_;
  std::uint64_t values_left_, text_left_;
  std::vector<NodeId> path_;
  std::map<NodeId, std::string> classes_;
};

}  // namespace

Json to_json(const PickleTree& tree, NodeId node, const PickleJsonLimits& limits) { return Walk(tree, limits).value(node, 0); }

}  // namespace miq
