// Internal to resolve() (methods.h): the rules of each group of options, one .cc each. Every function reads what the user gave, throws
// UsageError where that contradicts itself, the method or the model, and writes its part of the recipe. They are called in the order below,
// and each may read what those before it wrote; `recipe.method` is set.
#pragma once

#include <array>
#include <string>

#include "miq/compress/methods.h"

namespace miq {

inline constexpr std::array<int, 5> kWidths{2, 3, 4, 6, 8};
bool is_width(int bits);
std::string number_text(double value);  // "0.5", for messages

// resolve_zeros.cc: which weights become zero, and where.
void resolve_zeros(const CompressOptions& options, const Config& config, Recipe& recipe);
// resolve_bits.cc: whether to quantize, to how many bits, and who gets them.
void resolve_bits(const CompressOptions& options, Recipe& recipe);
void resolve_levels(const CompressOptions& options, Recipe& recipe);
void resolve_allocator(const CompressOptions& options, Recipe& recipe);
// resolve_overrides.cc: layers and kinds of matrices with an average of their own.
void resolve_overrides(const CompressOptions& options, const Config& config, Recipe& recipe);
// resolve_groups.cc: which channels share a scale, and what is measured of channels to find that.
void resolve_groups(const CompressOptions& options, Recipe& recipe);
void resolve_information(const CompressOptions& options, Recipe& recipe);
// resolve_solver.cc: how the layers are solved: order of the channels, grids, damping, arithmetic, seed; and what is tuned afterwards.
void resolve_solver(const CompressOptions& options, const Config& config, Recipe& recipe);
void resolve_tuning(const CompressOptions& options, Recipe& recipe);
// resolve_reshape.cc: all rules of the methods that change a model's sizes, slicegpt and structured; no other function above is called
// for them. For all other methods it refuses the options of these two.
void resolve_reshaping(const CompressOptions& options, const Config& config, Recipe& recipe);
Json reshaping_json(const Recipe& recipe);  // Recipe::to_json() of these two

}  // namespace miq
