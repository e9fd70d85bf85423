// Tensors are walked in name order; each pair is one unit of work with its own result.
#include "miq/converters/compare_models.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <set>

#include "miq/formats/cast.h"

namespace miq {
namespace {

std::string printable(std::string text) {
  for (char& c : text) c = static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
  return text;
}

// {"a": {"b": 1}} -> "a.b": 1, lists by number.
void flatten(const Json& json, const std::string& prefix, std::map<std::string, Json>& flat) {
  if (!json.is_structured() || json.empty()) {
    flat[prefix] = json;
    return;
  }
  for (const auto& [key, value] : json.items()) flatten(value, prefix.empty() ? key : prefix + "." + key, flat);
}

Json differing_keys(const Json& a, const Json& b) {
  std::map<std::string, Json> flat_a, flat_b;
  if (!a.empty()) flatten(a, "", flat_a);
  if (!b.empty()) flatten(b, "", flat_b);
  std::set<std::string> keys;
  for (const auto& [key, value] : flat_a) keys.insert(key);
  for (const auto& [key, value] : flat_b) keys.insert(key);
  Json list = Json::array();
  for (const std::string& key : keys) {
    const Json in_a = flat_a.contains(key) ? flat_a[key] : Json(), in_b = flat_b.contains(key) ? flat_b[key] : Json();
    if (in_a != in_b) list.push_back({{"key", key}, {"a", in_a}, {"b", in_b}});
  }
  return list;
}

Json finite(double value) { return std::isfinite(value) ? Json(value) : Json(); }

struct Pair {
  const std::string* name = nullptr;
  const Tensor *a = nullptr, *b = nullptr;
  bool same_bits = false, same_values = false;
  Json entry;
};

// Requires equal shapes.
void compare_values(Pair& pair, const Blob& a, const Blob& b) {
  const Blob wide_a = cast_elements(a, pair.a->dtype, DType::F32, *pair.name), wide_b = cast_elements(b, pair.b->dtype, DType::F32, *pair.name);
  std::uint64_t changed = 0;
  double largest = 0, difference = 0, power = 0;
  for (std::size_t i = 0; i < wide_a.size() / 4; ++i) {
    float x, y;
    std::memcpy(&x, wide_a.bytes().data() + 4 * i, 4);
    std::memcpy(&y, wide_b.bytes().data() + 4 * i, 4);
    power += static_cast<double>(x) * x;
    if (x == y) continue;
    if (std::isnan(x) && std::isnan(y)) continue;
    ++changed;
    const double distance = std::fabs(static_cast<double>(x) - y);
    largest = distance > largest || std::isnan(distance) ? distance : largest;
    difference += distance * distance;
  }
  pair.same_values = changed == 0;
  pair.entry["changed"] = changed;
  pair.entry["max_abs"] = finite(largest);
  pair.entry["rms_relative"] = changed == 0 ? Json(0.0) : finite(std::sqrt(difference / power));
}

void compare_pair(Pair& pair) {
  const std::string& name = *pair.name;
  const auto zeros = [&](const Tensor& tensor) { return Json(count_zeros(tensor, name)); };
  if (!pair.a || !pair.b) {
    const Tensor& only = pair.a ? *pair.a : *pair.b;
    pair.entry = {{"name", name}, {"shape", only.shape}, {"dtype", dtype_name(only.dtype)}, {"zeros", zeros(only)}};
    return;
  }
  const Tensor &a = *pair.a, &b = *pair.b;
  pair.entry = {{"name", name}, {"shape", Json::array({a.shape, b.shape})}, {"dtype", Json::array({dtype_name(a.dtype), dtype_name(b.dtype)})}, {"elements", a.elements()}};
  if (a.shape == b.shape) {
    const Blob data_a = decode(a, name), data_b = decode(b, name);
    pair.same_bits = a.dtype == b.dtype && std::ranges::equal(data_a.bytes(), data_b.bytes());
    if (pair.same_bits) return;
    compare_values(pair, data_a, data_b);
  }
  pair.entry["zeros"] = Json::array({zeros(a), zeros(b)});
}

std::string shape_text(const Json& shape) {
  std::string text = "[";
  for (const Json& size : shape) text += (text.size() > 1 ? ", " : "") + size.dump();
  return text + "]";
}

std::string value_text(const Json& value) { return value.is_null() ? "-" : printable(value.dump(-1, ' ', false, Json::error_handler_t::replace)).substr(0, 80); }

std::string different_text(const Json& entry) {
  const Json &shape = entry.at("shape"), &dtype = entry.at("dtype"), &zeros = entry.at("zeros");
  std::string line = "  " + printable(entry.at("name").get<std::string>()) + "  " + shape_text(shape[0]);
  if (shape[0] != shape[1]) line += " | " + shape_text(shape[1]);
  line += "  " + dtype[0].get<std::string>();
  if (dtype[0] != dtype[1]) line += " | " + dtype[1].get<std::string>();
  char figures[160];
  if (entry.contains("changed")) {
    const auto number = [&](const char* key) { return entry.at(key).is_null() ? std::nan("") : entry.at(key).get<double>(); };
    std::snprintf(figures, sizeof figures, "  %llu of %llu changed, max %.4g, rms %.4g of a's", static_cast<unsigned long long>(entry.at("changed").get<std::uint64_t>()),
                  static_cast<unsigned long long>(entry.at("elements").get<std::uint64_t>()), number("max_abs"), number("rms_relative"));
    line += figures;
  }
  return line + "  zeros " + zeros[0].dump() + " | " + zeros[1].dump() + "\n";
}

}  // namespace

Json compare_models(const Model& a, const Model& b, ThreadPool& pool) {
  std::map<std::string, Pair> by_name;
  for (const auto& [name, tensor] : a.tensors) by_name[name].a = &tensor;
  for (const auto& [name, tensor] : b.tensors) by_name[name].b = &tensor;
  std::vector<Pair*> pairs;
  for (auto& [name, pair] : by_name) {
    pair.name = &name;
    pairs.push_back(&pair);
  }
  pool.for_each(static_cast<std::int64_t>(pairs.size()), [&](std::int64_t i) { compare_pair(*pairs[static_cast<std::size_t>(i)]); });

  Json only_a = Json::array(), only_b = Json::array(), different = Json::array();
  std::uint64_t same = 0, values_alone = 0;
  for (Pair* pair : pairs) {
    if (!pair->b) {
      only_a.push_back(std::move(pair->entry));
    } else if (!pair->a) {
      only_b.push_back(std::move(pair->entry));
    } else if (pair->same_bits) {
      ++same;
    } else {
      values_alone += pair->same_values ? 1 : 0;
      different.push_back(std::move(pair->entry));
    }
  }
  Json config = differing_keys(a.config.to_json(), b.config.to_json());
  Json result{{"schema", "miq.diff/1"}, {"method", differing_keys(a.method, b.method)}, {"same", {{"tensors", same}, {"values_alone", values_alone}}}};
  const std::string kind_a = a.tokenizer ? a.tokenizer->kind() : "none", kind_b = b.tokenizer ? b.tokenizer->kind() : "none";
  if (kind_a != kind_b) result["tokenizer"] = {{"a", kind_a}, {"b", kind_b}};
  result["equal"] = config.empty() && only_a.empty() && only_b.empty() && different.empty();
  result["config"] = std::move(config);
  result["only_in_a"] = std::move(only_a);
  result["only_in_b"] = std::move(only_b);
  result["different"] = std::move(different);
  return result;
}

std::string compare_text(const Json& comparison, std::size_t most) {
  std::string text;
  const auto keys = [&](const char* what) {
    for (const Json& entry : comparison.at(what)) {
      text += std::string(what) + "  " + printable(entry.at("key").get<std::string>()) + ": " + value_text(entry.at("a")) + " | " + value_text(entry.at("b")) + "\n";
    }
  };
  keys("config");
  keys("method");
  if (comparison.contains("tokenizer")) text += "tokenizer  " + comparison["tokenizer"]["a"].get<std::string>() + " | " + comparison["tokenizer"]["b"].get<std::string>() + "\n";
  const auto list = [&](const char* what, const std::string& title, const auto& line) {
    const Json& entries = comparison.at(what);
    if (entries.empty()) return;
    text += title + ": " + std::to_string(entries.size()) + "\n";
    std::size_t shown = 0;
    for (const Json& entry : entries) {
      if (most > 0 && shown++ == most) {
        text += "  …\n";
        break;
      }
      text += line(entry);
    }
  };
  const auto single = [](const Json& entry) {
    return "  " + printable(entry.at("name").get<std::string>()) + "  " + shape_text(entry.at("shape")) + "  " + entry.at("dtype").get<std::string>() + "  zeros " + entry.at("zeros").dump() + "\n";
  };
  list("only_in_a", "only in a", single);
  list("only_in_b", "only in b", single);
  list("different", "different", different_text);
  text += "equal bit by bit: " + comparison.at("same").at("tensors").dump() + " tensors";
  if (const Json& values = comparison.at("same").at("values_alone"); values != 0) text += "; equal in value but not in type: " + values.dump();
  return text + (comparison.at("equal") == true ? "; nothing differs\n" : "\n");
}

}  // namespace miq
