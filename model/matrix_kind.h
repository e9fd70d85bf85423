// Matrices of one kind: those that have the same place in every layer and every expert.
#pragma once

#include <string>
#include <string_view>

namespace miq {

// Of a short_linear_name(): "experts.12.gate_proj" -> "experts.gate_proj"; "down_proj" stays.
std::string matrix_kind(std::string_view short_name);

}  // namespace miq
