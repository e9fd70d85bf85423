// Our own container as a source; see model/model.h for reading and formats/spec/miq.md for the format.
#pragma once

#include <string>

#include "miq/model/model.h"

namespace miq {

bool is_miq(const std::string& path);

}  // namespace miq
