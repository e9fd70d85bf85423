// JSON from untrusted files: bounded depth, duplicate keys refused, errors that name file and offset.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace miq {

using Json = nlohmann::json;  // object keys are kept sorted: dumps are deterministic

// `name` is used in messages. Throws FormatError; `max_depth` counts nested arrays and objects.
Json parse_json(std::string_view text, const std::string& name, int max_depth = 64);

}  // namespace miq
