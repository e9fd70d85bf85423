// What the arithmetic of calibration and of the solvers throws where a sum, a score or a weight is no finite number. Its own type, because the
// caller that knows the matrix (place_error.h) can then say what helps against it, and says it of no other error.
#pragma once

#include "miq/base/error.h"

namespace miq {

class NotFinite : public Error {
 public:
  using Error::Error;
};

}  // namespace miq
