// JSON from untrusted files: bounded depth, duplicate keys refused, errors that name file and offset.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace miq {

using Json = nlohmann::json;  // object keys are kept sorted: dumps are deterministic

// More values than this in one text are refused: a model's largest JSON file has about a million.
inline constexpr std::uint64_t kJsonValueLimit = 20'000'000;

// `name` is used in messages. `max_depth` counts nested arrays and objects. Throws FormatError for text
// that is no JSON or not UTF-8, anything but white space after the value, a key given twice in one object,
// too much depth, too many values, and numbers beyond a double; the message names the byte offset. An
// integer beyond 64 bits becomes a double: callers that want integers check is_number_integer(). The
// parser keeps its own stack, so depth costs no machine stack.
Json parse_json(std::string_view text, const std::string& name, int max_depth = 64, std::uint64_t max_values = kJsonValueLimit);

}  // namespace miq
