// What unpickling with Python would have done with a global that a file names. We do none of it: this is for reports.
#pragma once

#include <cstdint>
#include <string_view>

#include "miq/formats/pickle.h"

namespace miq {

enum class GlobalRisk : std::uint8_t {
  Harmless,   // torch.load(weights_only=True) accepts it: tensors, storages, dtypes, plain containers
  RunsCode,   // a class or function of some module: unpickling imports that module and runs its code
  Dangerous,  // known to run, load or write what the file chooses: os.system, builtins.eval, dill's _create_code, …
};

std::string_view risk_name(GlobalRisk risk);  // "harmless", "runs code", "dangerous"
GlobalRisk global_risk(std::string_view module, std::string_view name);
inline bool would_run_code(std::string_view module, std::string_view name) { return global_risk(module, name) != GlobalRisk::Harmless; }

}  // namespace miq
