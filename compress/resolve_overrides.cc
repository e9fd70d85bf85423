// "0-1=4" and "down_proj=4". Layers are looked at before kinds, so a matrix that both name follows its layer.
#include "miq/compress/resolve.h"

#include <charconv>
#include <set>

#include "miq/base/error.h"
#include "miq/model/architecture.h"
#include "miq/model/matrix_kind.h"

namespace miq {
namespace {

[[noreturn]] void refuse(const std::string& option, const std::string& text, const std::string& why) {
  throw UsageError(option + " " + text + ": " + why);
}

template <typename Number>
bool parse(std::string_view text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

// WHAT=BITS -> WHAT.
std::string_view split(const std::string& option, const std::string& text, const Recipe& recipe, double& bits) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0 || !parse(std::string_view(text).substr(equals + 1), bits)) {
    refuse(option, text, "write WHAT=BITS, such as " + std::string(option == "--layer-bits" ? "0-1=4" : "down_proj=4"));
  }
  const int least = recipe.levels.front(), most = recipe.levels.back();
  if (!(bits >= least && bits <= most)) {
    refuse(option, text, "bits must be between the levels " + std::to_string(least) + " and " + std::to_string(most));
  }
  return std::string_view(text).substr(0, equals);
}

BitsOverride layers_override(const std::string& text, std::int64_t layers, const Recipe& recipe) {
  BitsOverride result;
  const std::string_view what = split("--layer-bits", text, recipe, result.bits);
  const std::size_t dash = what.find('-');
  const bool good = dash == std::string_view::npos ? parse(what, result.first)
                                                   : parse(what.substr(0, dash), result.first) && parse(what.substr(dash + 1), result.last);
  if (dash == std::string_view::npos) result.last = result.first;
  if (!good || result.first < 0 || result.last < result.first || result.last >= layers) {
    refuse("--layer-bits", text, "the model's layers are 0 to " + std::to_string(layers - 1));
  }
  return result;
}

}  // namespace

void resolve_overrides(const CompressOptions& options, const Config& config, Recipe& recipe) {
  if (options.layer_bits.empty() && options.bits_of.empty()) return;
  if (recipe.method->layout != Layout::Groups) throw UsageError("--layer-bits and --bits-of belong to methods mi and mixed");
  if (!recipe.target && !recipe.target_bpw) throw UsageError("--layer-bits and --bits-of need a budget: give --target-avg-bits or --target-bpw");
  const auto layers = static_cast<std::int64_t>(config.layers.size());
  std::set<std::int64_t> taken;
  for (const std::string& text : options.layer_bits) {
    const BitsOverride& made = recipe.overrides.emplace_back(layers_override(text, layers, recipe));
    for (std::int64_t l = made.first; l <= made.last; ++l) {
      if (!taken.insert(l).second) refuse("--layer-bits", text, "layer " + std::to_string(l) + " is named twice");
    }
  }
  std::set<std::string> kinds, named;
  for (std::int64_t l = 0; l < layers; ++l) {
    for (const LayerTensor& tensor : layer_tensors(config, l)) {
      if (tensor.linear()) kinds.insert(matrix_kind(short_linear_name(tensor.name)));
    }
  }
  for (const std::string& text : options.bits_of) {
    BitsOverride made;
    made.kind = split("--bits-of", text, recipe, made.bits);
    made.last = layers - 1;
    if (!kinds.contains(made.kind)) {
      std::string known;
      for (const std::string& kind : kinds) known += (known.empty() ? "" : ", ") + kind;
      refuse("--bits-of", text, "the model's matrices are " + known);
    }
    if (!named.insert(made.kind).second) refuse("--bits-of", text, "it is named twice");
    recipe.overrides.push_back(std::move(made));
  }
}

}  // namespace miq
