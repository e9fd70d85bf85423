// The machine: what reports say about it, and what programs choose by it.
#pragma once

#include <string>

#include "miq/model/forward.h"

namespace miq {

// "AMD EPYC 9B14"; empty when the system does not say.
std::string processor_name();
// The processor multiplies bfloat16 itself (avx512_bf16 or amx_bf16).
bool processor_has_bfloat16();
// Of --dtype: "float32", "bfloat16", or "auto", which is bfloat16 where the processor has it.
ComputeType compute_type(const std::string& name);
std::string torch_version();

// From now on large buffers go back to the system when they are freed. Else the allocator keeps what it thinks will be asked for again, a
// different place for each layer: half as much again as a stated cap, on a small model.
void give_back_what_is_freed();

}  // namespace miq
