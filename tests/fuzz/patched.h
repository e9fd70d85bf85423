// For formats that are JSON in layers: the fuzzer writes a merge patch (RFC 7386) and so reaches the inner readers at once.
#pragma once

#include <string>
#include <string_view>

#include "miq/base/error.h"
#include "miq/formats/json.h"

namespace miq::test {

// Throws FormatError where `patch` is no JSON.
inline std::string patched(const Json& base, std::string_view patch) {
  Json json = base;
  json.merge_patch(parse_json(patch, "patch"));
  return json.dump();
}

}  // namespace miq::test
