// The records of how a model came to be: which kinds of values programs count on in them.
#pragma once

#include <string>

#include "miq/formats/json.h"

namespace miq {

struct Model;

// Whether Model::method may hold this value under this key: what programs read of it is a text, a number or a flag.
// Keys that none of them reads may hold anything.
bool fits_method(const std::string& key, const Json& value);

// Throws Error, `where` in front, for a key of method or source that is of another kind.
void check_records(const Model& model, const std::string& where);

}  // namespace miq
