// The suite's version, written into every container and report.
#pragma once

namespace miq {

// "0.1.0"; the same as project(VERSION) in CMakeLists.txt, which passes it in.
const char* version();

}  // namespace miq
