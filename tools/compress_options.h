// The options that say how to compress, as the commands that compress declare them: miq-compress, compare-methods.
#pragma once

#include <optional>
#include <string>

#include "miq/compress/methods.h"
#include "miq/tools/program.h"

namespace miq {

// What the command line said. Choices by name are bound to fields of `compress` straight away.
struct MethodFlags {
  CompressOptions compress;
  std::optional<int> use_mi_grouping;
  std::string dtype = "auto";
  std::string channel_scaling;  // "search" or a number; empty: not asked for
};

// Declares --method (unless told not to), every option of a method, --damping and --dtype.
void declare_method_options(CLI::App& app, MethodFlags& flags, bool with_method = true);

// After parsing. `seed`: that of the sampling of calibration windows.
CompressOptions method_options(const MethodFlags& flags, std::uint64_t seed);

}  // namespace miq
