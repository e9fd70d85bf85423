// Bits: one width, or a target on average, the widths to choose from, and who gets them. Two ways to say the same must agree.
#include "miq/compress/resolve.h"

#include <algorithm>

#include "miq/base/error.h"

namespace miq {

bool is_width(int bits) { return std::find(kWidths.begin(), kWidths.end(), bits) != kWidths.end(); }

std::string number_text(double value) { return Json(value).dump(); }

std::string_view allocator_name(Allocator allocator) {
  switch (allocator) {
    case Allocator::Global: return "global";
    case Allocator::PerLayer: return "per-layer";
    case Allocator::Redundancy: return "redundancy";
    case Allocator::Quantile: return "quantile";
    case Allocator::Budget: return "budget";
  }
  throw Error("unknown allocator");
}

void resolve_bits(const CompressOptions& options, Recipe& recipe) {
  const Method& method = *recipe.method;
  std::optional<double> target = options.target_avg_bits;
  if (options.wbits && *options.wbits != 16) {
    if (!is_width(*options.wbits)) throw UsageError("--wbits " + std::to_string(*options.wbits) + " is not 2, 3, 4, 6 or 8 (16: no quantization)");
    if (target && *target != *options.wbits) {
      throw UsageError("--wbits " + std::to_string(*options.wbits) + " and --target-avg-bits " + number_text(*target) +
                       " ask for different averages; give one of them");
    }
    target = *options.wbits;
  }
  if (target && !(*target >= 2 && *target <= 8)) throw UsageError("--target-avg-bits " + number_text(*target) + " is not between 2 and 8");
  const bool quantile = options.bit_method == BitMethod::Quantile;
  if (options.bit_method && method.layout != Layout::Levels) {
    if (quantile || method.layout == Layout::Uniform) throw UsageError("--bit-method belongs to method enhanced");
  }
  if (options.target_bpw) {
    if (target) throw UsageError("--target-bpw counts what --target-avg-bits and --wbits leave out; give one of them");
    if (method.layout != Layout::Groups) throw UsageError("--target-bpw belongs to methods mi and mixed; elsewhere the width decides");
    if (!(*options.target_bpw > 0 && *options.target_bpw <= 32))
      throw UsageError("--target-bpw " + number_text(*options.target_bpw) + " is not in (0, 32]");
  }
  const bool by_rank =
      (quantile && method.layout == Layout::Levels) || (method.layout == Layout::Groups && options.allocator == Allocator::Quantile);
  const bool has_bits = target || options.target_bpw || by_rank;
  if (!has_bits) {
    if (method.quantizes) {
      throw UsageError("method " + std::string(method.name) + " quantizes, but neither --wbits nor --target-avg-bits says to how many bits");
    }
    if (options.group_size || options.n_groups || options.grouping || options.levels || options.bit_method || options.allocator ||
        options.importance_weights || options.scale_bits || options.auto_groups || !options.layer_bits.empty() || !options.bits_of.empty()) {
      throw UsageError(
          "--group-size, --n-groups, --scale-bits, --grouping, --levels, --bit-method, --allocator and --importance-weights are about "
          "quantization, "
          "but neither --wbits nor --target-avg-bits says to how many bits; nothing would be quantized");
    }
    return;
  }
  recipe.quantize = true;
  recipe.bit_method = options.bit_method.value_or(BitMethod::Budget);
  recipe.target = target;
  recipe.target_bpw = options.target_bpw;
  if (method.layout == Layout::Uniform) {
    const int width = static_cast<int>(*target);
    if (width != *target || !is_width(width)) {
      throw UsageError("method " + std::string(method.name) + " gives every weight the same width, 2, 3, 4, 6 or 8; " + number_text(*target) +
                       " bits on average need enhanced, mi or mixed");
    }
    recipe.width = width;
  }
}

void resolve_levels(const CompressOptions& options, Recipe& recipe) {
  if (recipe.method->layout == Layout::Uniform) {
    if (options.levels) throw UsageError("--levels belongs to methods enhanced, mi and mixed");
    return;
  }
  recipe.levels = options.levels.value_or(std::vector<int>(kWidths.begin(), kWidths.end()));
  std::sort(recipe.levels.begin(), recipe.levels.end());
  recipe.levels.erase(std::unique(recipe.levels.begin(), recipe.levels.end()), recipe.levels.end());
  for (int level : recipe.levels) {
    if (!is_width(level)) throw UsageError("--levels: " + std::to_string(level) + " is not 2, 3, 4, 6 or 8");
  }
  if (recipe.levels.empty()) throw UsageError("--levels names no width");
  if (recipe.target && *recipe.target < recipe.levels.front()) {
    throw UsageError("an average of " + number_text(*recipe.target) + " bits is below the smallest level, " + std::to_string(recipe.levels.front()));
  }
}

void resolve_allocator(const CompressOptions& given, Recipe& recipe) {
  const Method& method = *recipe.method;
  recipe.allocator = method.allocator;
  if (!given.allocator) return;
  const std::string name(allocator_name(*given.allocator));
  switch (method.layout) {
    case Layout::Uniform:
      throw UsageError("--allocator belongs to methods enhanced, mi and mixed; " + std::string(method.name) + " has one width");
    case Layout::Levels: {
      if (*given.allocator != Allocator::Quantile && *given.allocator != Allocator::Budget) {
        throw UsageError("--allocator " + name + " belongs to methods mi and mixed; enhanced knows quantile and budget");
      }
      const BitMethod same = *given.allocator == Allocator::Quantile ? BitMethod::Quantile : BitMethod::Budget;
      if (given.bit_method && *given.bit_method != same)
        throw UsageError("--allocator and --bit-method contradict each other; give one of them");
      break;
    }
    case Layout::Groups: recipe.allocator = *given.allocator; break;
  }
}

}  // namespace miq
