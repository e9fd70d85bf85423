// A record of the result cache (result_cache.h): the windows of a batch, one after another, each its digest (32 characters), its
// number of values (8 bytes, little-endian) and the values (float32). Zeros fill the record up.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "miq/base/blob.h"

namespace miq {

inline constexpr std::size_t kWindowDigits = 32;

// Adds the record's windows to `known`; a later one of the same digest takes the place of an earlier one. What does not lie wholly in the
// record, and what follows it, is left out.
void read_result_record(Bytes record, std::map<std::string, std::vector<float>>& known);

}  // namespace miq
