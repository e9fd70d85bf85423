// Containers, sidecars and PyTorch files state the record as anybody may have written it, so kinds are checked where a
// model is made and not wherever a program prints "method mi": one table of the keys that are read by name.
#include "miq/model/method_record.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "miq/base/error.h"
#include "miq/model/model.h"

namespace miq {
namespace {

constexpr Json::value_t kText = Json::value_t::string, kFlag = Json::value_t::boolean, kNumber = Json::value_t::number_float;

constexpr std::pair<std::string_view, Json::value_t> kMethodKinds[] = {
    {"name", kText},
    {"base_model", kText},
    {"sliced_head", kFlag},
    {"pruning_ratio", kNumber},
    {"actual_ratio", kNumber},
    {"parameter_ratio", kNumber},
};

}  // namespace

bool fits_method(const std::string& key, const Json& value) {
  const auto row = std::ranges::find(kMethodKinds, key, &std::pair<std::string_view, Json::value_t>::first);
  if (row == std::end(kMethodKinds)) return true;
  return row->second == kNumber ? value.is_number() : value.type() == row->second;
}

void check_records(const Model& model, const std::string& where) {
  const auto refuse = [&](const char* record, const std::string& key, const Json& value) {
    throw Error(where + ": the record of its " + record + " has '" + key + "' as " + value.type_name() + ". miq did not write that; convert the model again from its source");
  };
  for (const auto& [key, value] : model.method.items()) {
    if (!fits_method(key, value)) refuse("method", key, value);
  }
  if (const auto format = model.source.find("format"); format != model.source.end() && !format->is_string()) refuse("source", "format", *format);
}

}  // namespace miq
