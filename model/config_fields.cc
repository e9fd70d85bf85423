// See config_fields.h; nothing here knows what a model is.
#include "miq/model/config_fields.h"

#include <cmath>

namespace miq {
namespace {

constexpr std::int64_t kSizeLimit = std::int64_t{1} << 32;  // far above any real size; keeps products in range

}  // namespace

ConfigFields::ConfigFields(const Json& json, const std::string& name) : json_(json), name_(name) {
  if (!json.is_object()) throw FormatError(name, "expected a JSON object");
}

bool ConfigFields::has(const char* key) const {
  const auto found = json_.find(key);
  return found != json_.end() && !found->is_null();
}

const Json& ConfigFields::at(const char* key) const {
  if (!has(key)) throw FormatError(name_, "key '" + std::string(key) + "' is missing");
  return json_.at(key);
}

std::int64_t ConfigFields::size(const char* key, std::int64_t least) const {
  const Json& value = at(key);
  if (!value.is_number_integer()) refuse(key, "an integer");
  // Unsigned values above the signed range must not wrap to negative ones.
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(kSizeLimit)) refuse(key, "at most 2^32");
  const auto number = value.get<std::int64_t>();
  if (number < least || number > kSizeLimit) refuse(key, "between " + std::to_string(least) + " and 2^32");
  return number;
}

std::int64_t ConfigFields::size_or(const char* key, std::int64_t otherwise, std::int64_t least) const { return has(key) ? size(key, least) : otherwise; }

double ConfigFields::positive(const char* key) const {
  const Json& value = at(key);
  const double number = value.is_number() ? value.get<double>() : 0;
  if (!std::isfinite(number) || number <= 0) refuse(key, "a positive number");
  return number;
}

std::string ConfigFields::text(const char* key) const {
  if (!at(key).is_string()) refuse(key, "a string");
  return at(key).get<std::string>();
}

bool ConfigFields::flag(const char* key) const {
  if (!at(key).is_boolean()) refuse(key, "true or false");
  return at(key).get<bool>();
}

bool ConfigFields::flag_or(const char* key, bool otherwise) const { return has(key) ? flag(key) : otherwise; }

std::optional<std::int64_t> ConfigFields::id(const char* key) const {
  if (!has(key)) return std::nullopt;
  // Some Llama-3 configs list several end ids; the first one is the text's end.
  const Json& value = json_.at(key);
  const Json& first = value.is_array() && !value.empty() ? value[0] : value;
  if (!first.is_number_integer() || (first.is_number_unsigned() && first.get<std::uint64_t>() > static_cast<std::uint64_t>(kSizeLimit))) {
    refuse(key, "an integer up to 2^32");
  }
  return first.get<std::int64_t>() < 0 ? std::nullopt : std::optional(first.get<std::int64_t>());
}

void ConfigFields::refuse(const char* key, const std::string& expected) const {
  throw FormatError(name_, "key '" + std::string(key) + "' is " + json_.at(key).dump() + ", expected " + expected);
}

}  // namespace miq
