// Who gets how many bits. Everything here is plain arrays: an item is a column of one matrix, or a group of one matrix.
//
// Levels are the bit widths to choose from, rising. "Cost" is a number of kept weights times bits; a weight that is pruned takes
// none. Counts are passed as double: exact as long as they are whole numbers (below 2^53), and fractions are accepted for
// predicted counts. Ties are broken by item number, so results are reproducible.
//
// Being exact: every function with a target returns an average over the kept weights that is never above the target, and below it by less
// than the smallest step that any item could still take. Where the counts were only predicted (unstructured masks inside a block that
// holds several items), call again with the counts that came out.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace miq {

inline constexpr std::array<int, 5> kBitLevels = {2, 3, 4, 6, 8};

// A bit width for each item whose level follows from a score, highest score most bits: the level nearest to b0 + slope * z, z the
// score standardised over the kept weights and b0 found so that the budget is met; what is left is given in order of falling score.
// `kept` [items]: kept weights of each item (an item without any costs nothing).
// Throws UsageError when target is below the lowest or above the highest level; Error when sizes disagree or a score is not finite.
std::vector<std::uint8_t> allocate_budget(std::span<const double> score, std::span<const double> kept, double target,
                                          double slope = 1.0, std::span<const int> levels = kBitLevels);

// Classes by rank. Without a target: as many equal classes as levels (fifths of 2, 3, 4, 6, 8: 4.6 on average). With a target: class shares
// p_b proportional to exp(-t b), the most even ones whose mean is the target, then exact as above.
std::vector<std::uint8_t> allocate_quantile(std::span<const double> score, std::span<const double> kept,
                                            std::span<const int> levels = kBitLevels);
std::vector<std::uint8_t> allocate_quantile(std::span<const double> score, std::span<const double> kept, double target,
                                            std::span<const int> levels = kBitLevels);

// The first mutual-information scheme: groups whose channels share much get fewer bits, score -ln(mean information within the group); a
// group of one channel counts as the least redundant. Measured at chance level (a shuffled rule does as well); kept so that a report
// can show it for what it is. `information_within` [groups] nats, `channels` and `kept` [groups].
std::vector<std::uint8_t> allocate_redundancy(std::span<const double> information_within, std::span<const std::int64_t> channels,
                                              std::span<const double> kept, double target, std::span<const int> levels = kBitLevels);

// The same budget spent where it lowers the predicted loss most, over all items of all matrices at once. `loss` [items * levels] row-major:
// predicted loss of each item at each level; `kept` [items]: kept weights (rows times kept columns).
// Method: the lower convex hull of each item's (cost, loss); its increments in order of falling slope, each taken while it fits; then
// single steps by falling slope while any fits. Within one increment of the best for the hulls' problem. Returns levels' bit widths.
// Throws as allocate_budget.
std::vector<std::uint8_t> allocate_global(std::span<const double> loss, std::span<const double> kept, double target,
                                          std::span<const int> levels = kBitLevels);

// Spends what a choice made in parts leaves of the whole budget: single steps by falling score while any fits. Then the rule
// about being exact above holds for all items together.
void spend_rest(std::span<std::uint8_t> bits, std::span<const double> score, std::span<const double> kept, double target,
                std::span<const int> levels = kBitLevels);

// Sum of kept * bits over sum of kept; 0 when nothing is kept.
double average_bits(std::span<const std::uint8_t> bits, std::span<const double> kept);

}  // namespace miq
