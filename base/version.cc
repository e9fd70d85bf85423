// The one place that knows the version outside CMakeLists.txt.
#include "miq/base/version.h"

namespace miq {

const char* version() { return MIQ_VERSION; }

}  // namespace miq
