#include "miq/evaluate/report_fields.h"

namespace miq {

JsonFields::JsonFields(const Json& json, std::string file, std::string place) : file_(std::move(file)), place_(std::move(place)) {
  if (json.is_null()) return;
  if (!json.is_object()) throw FormatError(file_, (place_.empty() ? "the report" : place_) + " is no object", "The file is damaged: measure again");
  json_ = &json;
}

const Json* JsonFields::find(const std::string& key) const {
  if (json_ == nullptr) return nullptr;
  const auto found = json_->find(key);
  return found == json_->end() || found->is_null() ? nullptr : &*found;
}

FormatError JsonFields::wrong(const std::string& key, const std::string& problem) const {
  return FormatError(file_, place_of(key) + " " + problem, "The file is damaged, or of another program: measure again");
}

std::vector<std::string> JsonFields::keys() const {
  std::vector<std::string> names;
  if (json_ == nullptr) return names;
  for (const auto& [key, value] : json_->items()) names.push_back(key);
  return names;
}

std::string JsonFields::text(const std::string& key) const {
  const Json* value = find(key);
  if (value == nullptr) return {};
  if (!value->is_string()) throw wrong(key, "is no text");
  return value->get<std::string>();
}

double JsonFields::number(const std::string& key, double otherwise) const {
  const Json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_number()) throw wrong(key, "is no number");
  return value->get<double>();
}

bool JsonFields::flag(const std::string& key) const {
  const Json* value = find(key);
  if (value == nullptr) return false;
  if (!value->is_boolean()) throw wrong(key, "is neither true nor false");
  return value->get<bool>();
}

std::int64_t JsonFields::count(const std::string& key, std::int64_t otherwise, std::int64_t most) const {
  const Json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_number_integer()) throw wrong(key, "is no whole number");
  if (value->is_number_unsigned() && value->get<std::uint64_t>() > static_cast<std::uint64_t>(most))
    throw wrong(key, "is more than makes sense: " + value->dump());
  const auto number = value->get<std::int64_t>();
  if (number < 0) throw wrong(key, "is below zero");
  if (number > most) throw wrong(key, "is more than makes sense: " + value->dump());
  return number;
}

JsonFields JsonFields::object(const std::string& key) const {
  static const Json kNothing;
  const Json* value = find(key);
  return JsonFields(value == nullptr ? kNothing : *value, file_, place_of(key));
}

Json JsonFields::raw_object(const std::string& key) const {
  const Json* value = find(key);
  if (value == nullptr) return Json::object();
  if (!value->is_object()) throw wrong(key, "is no object");
  return *value;
}

const Json& JsonFields::array(const std::string& key, std::size_t most) const {
  static const Json kNothing = Json::array();
  const Json* value = find(key);
  if (value == nullptr) return kNothing;
  if (!value->is_array()) throw wrong(key, "is no list");
  if (value->size() > most) throw wrong(key, "is longer than makes sense");
  return *value;
}

JsonFields JsonFields::element(const std::string& key, std::size_t index, const Json& json) const {
  return JsonFields(json, file_, place_of(key) + "[" + std::to_string(index) + "]");
}

}  // namespace miq
