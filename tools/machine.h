// What reports say about the machine.
#pragma once

#include <string>

namespace miq {

// "AMD EPYC 9B14"; empty when the system does not say.
std::string processor_name();
// The processor multiplies bfloat16 itself (avx512_bf16 or amx_bf16).
bool processor_has_bfloat16();
std::string torch_version();

}  // namespace miq
