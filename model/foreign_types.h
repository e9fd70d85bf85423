// Model types that are known and that no row of architecture.h computes.
#pragma once

#include <string_view>

namespace miq {

struct ForeignType {
  std::string_view type;        // config.json "model_type"
  std::string_view difference;  // "ALiBi positions and fused query_key_value matrices"
  std::string_view nearest;     // what to do instead: a sentence, for the message
};

// Null for a type that is not in the list.
const ForeignType* find_foreign_type(std::string_view type);

}  // namespace miq
